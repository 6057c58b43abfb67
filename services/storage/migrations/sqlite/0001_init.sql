-- Sestina's schema on SQLite. Times are Unix milliseconds; unsigned 64-bit numbers are stored bit
-- for bit in INTEGER; stanzas are protobuf.

-- Accounts -------------------------------------------------------------------------------------

CREATE TABLE account (
    bare       TEXT NOT NULL PRIMARY KEY,
    host       TEXT NOT NULL,
    disabled   BOOLEAN NOT NULL DEFAULT FALSE,
    created_ms INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX account_by_host ON account (host, bare);

CREATE TABLE account_key (
    bare       TEXT NOT NULL,
    mechanism  TEXT NOT NULL,
    salt       BLOB NOT NULL,
    iterations INTEGER NOT NULL,
    stored_key BLOB NOT NULL,
    server_key BLOB NOT NULL,
    PRIMARY KEY (bare, mechanism)
) WITHOUT ROWID;

-- Cluster --------------------------------------------------------------------------------------

-- One row per process ever started (pruned later). `ended` is final: never renewed again.
CREATE TABLE lease (
    name        TEXT NOT NULL,
    incarnation INTEGER NOT NULL,
    role        INTEGER NOT NULL,
    address     TEXT NOT NULL,
    draining    BOOLEAN NOT NULL,
    expires_ms  INTEGER NOT NULL,
    ended       BOOLEAN NOT NULL DEFAULT FALSE,
    PRIMARY KEY (name, incarnation)
) WITHOUT ROWID;

CREATE TABLE planner (
    one         BOOLEAN NOT NULL PRIMARY KEY DEFAULT TRUE CHECK (one),
    name        TEXT NOT NULL,
    incarnation INTEGER NOT NULL,
    expires_ms  INTEGER NOT NULL
);
INSERT INTO planner (name, incarnation, expires_ms) VALUES ('', 0, 0);

CREATE TABLE slot_table (
    one     BOOLEAN NOT NULL PRIMARY KEY DEFAULT TRUE CHECK (one),
    version INTEGER NOT NULL
);
INSERT INTO slot_table (version) VALUES (0);

CREATE TABLE slot (
    slot        INTEGER PRIMARY KEY,
    owner       TEXT NOT NULL DEFAULT '',
    incarnation INTEGER NOT NULL DEFAULT 0,
    epoch       INTEGER NOT NULL DEFAULT 0
);
WITH RECURSIVE n (i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < 4095)
INSERT INTO slot (slot) SELECT i FROM n;

CREATE TABLE cluster_secret (
    one    BOOLEAN NOT NULL PRIMARY KEY DEFAULT TRUE CHECK (one),
    secret BLOB NOT NULL
);

-- Outcomes of IQ sets --------------------------------------------------------------------------

CREATE TABLE outcome (
    key        BLOB NOT NULL PRIMARY KEY,
    reply      BLOB NOT NULL,
    created_ms INTEGER NOT NULL
);
CREATE INDEX outcome_by_age ON outcome (created_ms);

-- Offline messages -----------------------------------------------------------------------------

CREATE TABLE offline_user (
    id      INTEGER PRIMARY KEY,
    bare    TEXT NOT NULL UNIQUE,
    -- How many undelivered rows there are.
    waiting INTEGER NOT NULL DEFAULT 0
);

CREATE TABLE offline (
    owner        INTEGER NOT NULL,
    key          BLOB NOT NULL,
    epoch        INTEGER NOT NULL,
    counter      INTEGER NOT NULL,
    at_ms        INTEGER NOT NULL,
    stanza       BLOB NOT NULL,
    -- NULL while undelivered; the row stays (without its stanza) so that a replay finds its key.
    delivered_ms INTEGER,
    PRIMARY KEY (owner, key)
);
CREATE INDEX offline_waiting ON offline (owner, epoch, counter) WHERE delivered_ms IS NULL;
CREATE INDEX offline_delivered ON offline (delivered_ms) WHERE delivered_ms IS NOT NULL;

-- Archives -------------------------------------------------------------------------------------

-- Who owns an archive, and its newest row. jid IS NULL: deleted, its rows are being removed.
-- AUTOINCREMENT: an id is never used again, so rows of a deleted archive cannot become another's.
CREATE TABLE archive_owner (
    id             INTEGER PRIMARY KEY AUTOINCREMENT,
    jid            TEXT UNIQUE,
    newest_ms      INTEGER NOT NULL DEFAULT -1,
    newest_epoch   INTEGER NOT NULL DEFAULT -1,
    newest_counter INTEGER NOT NULL DEFAULT -1
);

CREATE TABLE archive_peer (
    id  INTEGER PRIMARY KEY,
    jid TEXT NOT NULL UNIQUE
);

-- Time never goes back in an archive, so (at_ms, epoch, counter) is the same order as
-- (epoch, counter).
CREATE TABLE archive (
    id        INTEGER PRIMARY KEY,
    archive   INTEGER NOT NULL,
    at_ms     INTEGER NOT NULL,
    epoch     INTEGER NOT NULL,
    counter   INTEGER NOT NULL,
    stanza_id BLOB NOT NULL,
    peer      INTEGER NOT NULL,
    resource  TEXT NOT NULL,
    stanza    BLOB NOT NULL
);
CREATE UNIQUE INDEX archive_in_order ON archive (archive, at_ms, epoch, counter);
CREATE UNIQUE INDEX archive_by_stanza_id ON archive (archive, stanza_id);
CREATE INDEX archive_by_peer ON archive (archive, peer, at_ms, epoch, counter);
CREATE INDEX archive_by_age ON archive (at_ms);

-- What is a table of its own on PostgreSQL (see there) is already an index here.
CREATE VIEW archive_key AS SELECT archive, stanza_id, at_ms, epoch, counter FROM archive;
