-- The versions of the protocol between tiers that each process speaks, and the version of its program.
ALTER TABLE lease ADD COLUMN oldest INTEGER NOT NULL DEFAULT 1;
ALTER TABLE lease ADD COLUMN newest INTEGER NOT NULL DEFAULT 1;
ALTER TABLE lease ADD COLUMN program TEXT NOT NULL DEFAULT '';

-- Storage processes, which hold no leases: nothing of theirs could be taken over.
CREATE TABLE storage_process (
    name        TEXT NOT NULL,
    incarnation INTEGER NOT NULL,
    address     TEXT NOT NULL,
    oldest      INTEGER NOT NULL,
    newest      INTEGER NOT NULL,
    program     TEXT NOT NULL,
    expires_ms  INTEGER NOT NULL,
    PRIMARY KEY (name, incarnation)
);

-- The newest format that anything in this database is written in. A program that does not know it
-- refuses the database. Migrations that only add do not change it.
CREATE TABLE storage_format (
    one    BOOLEAN NOT NULL PRIMARY KEY DEFAULT TRUE CHECK (one),
    format INTEGER NOT NULL
);
INSERT INTO storage_format (format) VALUES (1);
