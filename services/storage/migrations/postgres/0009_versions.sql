-- The versions of the protocol between tiers that each process speaks, and the version of its program.
ALTER TABLE lease ADD COLUMN oldest BIGINT NOT NULL DEFAULT 1;
ALTER TABLE lease ADD COLUMN newest BIGINT NOT NULL DEFAULT 1;
ALTER TABLE lease ADD COLUMN program TEXT NOT NULL DEFAULT '';

-- Storage processes, which hold no leases: nothing of theirs could be taken over.
CREATE TABLE storage_process (
    name        TEXT NOT NULL,
    incarnation BIGINT NOT NULL,
    address     TEXT NOT NULL,
    oldest      BIGINT NOT NULL,
    newest      BIGINT NOT NULL,
    program     TEXT NOT NULL,
    expires_ms  BIGINT NOT NULL,
    PRIMARY KEY (name, incarnation)
);

-- The newest format that anything in this database is written in. A program that does not know it
-- refuses the database. Migrations that only add do not change it.
CREATE TABLE storage_format (
    one    BOOLEAN NOT NULL PRIMARY KEY DEFAULT TRUE CHECK (one),
    format BIGINT NOT NULL
);
INSERT INTO storage_format (format) VALUES (1);
