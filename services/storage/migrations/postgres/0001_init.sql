-- Sestina's schema on PostgreSQL. Times are Unix milliseconds by the database's clock unless said
-- otherwise; unsigned 64-bit numbers are stored bit for bit in BIGINT; stanzas are protobuf.

-- Accounts -------------------------------------------------------------------------------------

CREATE TABLE account (
    bare       TEXT COLLATE "C" PRIMARY KEY,
    host       TEXT COLLATE "C" NOT NULL,
    disabled   BOOLEAN NOT NULL DEFAULT FALSE,
    created_ms BIGINT NOT NULL
);
CREATE INDEX account_by_host ON account (host, bare);

CREATE TABLE account_key (
    bare       TEXT COLLATE "C" NOT NULL,
    mechanism  TEXT COLLATE "C" NOT NULL,
    salt       BYTEA NOT NULL,
    iterations BIGINT NOT NULL,
    stored_key BYTEA NOT NULL,
    server_key BYTEA NOT NULL,
    PRIMARY KEY (bare, mechanism)
);

-- Cluster --------------------------------------------------------------------------------------

-- One row per process ever started (pruned later). `ended` is final: never renewed again.
CREATE TABLE lease (
    name        TEXT COLLATE "C" NOT NULL,
    incarnation BIGINT NOT NULL,
    role        BIGINT NOT NULL,
    address     TEXT NOT NULL,
    draining    BOOLEAN NOT NULL,
    expires_ms  BIGINT NOT NULL,
    ended       BOOLEAN NOT NULL DEFAULT FALSE,
    PRIMARY KEY (name, incarnation)
);

CREATE TABLE planner (
    one         BOOLEAN PRIMARY KEY DEFAULT TRUE CHECK (one),
    name        TEXT COLLATE "C" NOT NULL,
    incarnation BIGINT NOT NULL,
    expires_ms  BIGINT NOT NULL
);
INSERT INTO planner (name, incarnation, expires_ms) VALUES ('', 0, 0);

CREATE TABLE slot_table (
    one     BOOLEAN PRIMARY KEY DEFAULT TRUE CHECK (one),
    version BIGINT NOT NULL
);
INSERT INTO slot_table (version) VALUES (0);

CREATE TABLE slot (
    slot        BIGINT PRIMARY KEY,
    owner       TEXT COLLATE "C" NOT NULL DEFAULT '',
    incarnation BIGINT NOT NULL DEFAULT 0,
    epoch       BIGINT NOT NULL DEFAULT 0
);
INSERT INTO slot (slot) SELECT generate_series(0, 4095);

CREATE TABLE cluster_secret (
    one    BOOLEAN PRIMARY KEY DEFAULT TRUE CHECK (one),
    secret BYTEA NOT NULL
);

-- Outcomes of IQ sets --------------------------------------------------------------------------

CREATE TABLE outcome (
    key        BYTEA PRIMARY KEY,
    reply      BYTEA NOT NULL,
    created_ms BIGINT NOT NULL
);
CREATE INDEX outcome_by_age ON outcome USING brin (created_ms);

-- Offline messages -----------------------------------------------------------------------------

CREATE TABLE offline_user (
    id      BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    bare    TEXT COLLATE "C" NOT NULL UNIQUE,
    -- How many undelivered rows there are.
    waiting BIGINT NOT NULL DEFAULT 0
);

CREATE TABLE offline (
    owner        BIGINT NOT NULL,
    key          BYTEA NOT NULL,
    epoch        BIGINT NOT NULL,
    counter      BIGINT NOT NULL,
    at_ms        BIGINT NOT NULL,
    stanza       BYTEA NOT NULL,
    -- NULL while undelivered; the row stays (without its stanza) so that a replay finds its key.
    delivered_ms BIGINT,
    PRIMARY KEY (owner, key)
);
CREATE INDEX offline_waiting ON offline (owner, epoch, counter) WHERE delivered_ms IS NULL;
CREATE INDEX offline_delivered ON offline (delivered_ms) WHERE delivered_ms IS NOT NULL;

-- Archives -------------------------------------------------------------------------------------

-- Who owns an archive, and its newest row. jid IS NULL: deleted, its rows are being removed.
CREATE TABLE archive_owner (
    id             BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    jid            TEXT COLLATE "C" UNIQUE,
    newest_ms      BIGINT NOT NULL DEFAULT -1,
    newest_epoch   BIGINT NOT NULL DEFAULT -1,
    newest_counter BIGINT NOT NULL DEFAULT -1
) WITH (fillfactor = 70);
CREATE INDEX archive_owner_deleted ON archive_owner (id) WHERE jid IS NULL;

CREATE TABLE archive_peer (
    id  BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    jid TEXT COLLATE "C" NOT NULL UNIQUE
);

-- Time never goes back in an archive, so (at_ms, epoch, counter) is the same order as
-- (epoch, counter); with at_ms first, the months follow each other and a page reads as few of
-- them as it needs.
CREATE TABLE archive (
    archive   BIGINT NOT NULL,
    at_ms     BIGINT NOT NULL,
    epoch     BIGINT NOT NULL,
    counter   BIGINT NOT NULL,
    stanza_id BYTEA NOT NULL,
    peer      BIGINT NOT NULL,
    resource  TEXT COLLATE "C" NOT NULL,
    stanza    BYTEA NOT NULL,
    PRIMARY KEY (archive, at_ms, epoch, counter)
) PARTITION BY RANGE (at_ms);
CREATE INDEX archive_by_peer ON archive (archive, peer, at_ms, epoch, counter);

-- A replay carries the same stanza_id but maybe another time, so uniqueness must hold over all
-- months; no index of a partitioned table can do that. This table does, and finds the place of an
-- id without looking into every month.
CREATE TABLE archive_key (
    archive   BIGINT NOT NULL,
    stanza_id BYTEA NOT NULL,
    at_ms     BIGINT NOT NULL,
    epoch     BIGINT NOT NULL,
    counter   BIGINT NOT NULL,
    PRIMARY KEY (archive, stanza_id)
);
CREATE INDEX archive_key_by_age ON archive_key USING brin (at_ms);

CREATE TABLE archive_month (
    lo   BIGINT PRIMARY KEY,
    hi   BIGINT NOT NULL,
    name TEXT NOT NULL
);

-- Makes the partition of the month of `at`, if it is missing. ATTACH, unlike CREATE ... PARTITION
-- OF, does not stop readers and writers of the other months. 24152 is the class of the lock that
-- serialises changes of the partitions.
CREATE FUNCTION archive_partition(at BIGINT, OUT o_lo BIGINT, OUT o_hi BIGINT)
LANGUAGE plpgsql AS $$
DECLARE
    month TIMESTAMP := date_trunc('month', to_timestamp(at / 1000) AT TIME ZONE 'UTC');
    part  TEXT := 'archive_' || to_char(month, 'YYYYMM');
BEGIN
    o_lo := extract(epoch FROM month)::BIGINT * 1000;
    o_hi := extract(epoch FROM month + INTERVAL '1 month')::BIGINT * 1000;
    PERFORM pg_advisory_xact_lock(24152, 0);
    IF NOT EXISTS (SELECT 1 FROM archive_month WHERE lo = o_lo) THEN
        EXECUTE format('CREATE TABLE %I (LIKE archive INCLUDING DEFAULTS)', part);
        EXECUTE format('ALTER TABLE archive ATTACH PARTITION %I FOR VALUES FROM (%s) TO (%s)',
                       part, o_lo, o_hi);
        INSERT INTO archive_month (lo, hi, name) VALUES (o_lo, o_hi, part);
    END IF;
END
$$;

-- Drops the oldest partition that ends at or before `cutoff`; returns its end, NULL if none does.
-- The lock on the whole table is waited for only briefly: whoever comes later queues behind it.
CREATE FUNCTION archive_drop_oldest(cutoff BIGINT) RETURNS BIGINT
LANGUAGE plpgsql AS $$
DECLARE
    month archive_month%ROWTYPE;
BEGIN
    PERFORM set_config('lock_timeout', '200ms', TRUE);
    PERFORM pg_advisory_xact_lock(24152, 0);
    SELECT * INTO month FROM archive_month WHERE hi <= cutoff ORDER BY lo LIMIT 1;
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;
    EXECUTE format('DROP TABLE %I', month.name);
    DELETE FROM archive_month WHERE lo = month.lo;
    RETURN month.hi;
END
$$;
