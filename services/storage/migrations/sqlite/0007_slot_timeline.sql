-- Where the slot table is: timeline, version, and a random token for each change. A database that has
-- lost commits lacks positions that processes know: then a new timeline begins.

ALTER TABLE slot_table ADD COLUMN timeline INTEGER NOT NULL DEFAULT 1;
ALTER TABLE slot_table ADD COLUMN token INTEGER NOT NULL DEFAULT 0;
-- No slot moves before that time: leases may be among what was lost.
ALTER TABLE slot_table ADD COLUMN quiet_until_ms INTEGER NOT NULL DEFAULT 0;

-- The positions that the table had lately.
CREATE TABLE slot_history (
    version  INTEGER NOT NULL PRIMARY KEY,
    timeline INTEGER NOT NULL,
    token    INTEGER NOT NULL
);
INSERT INTO slot_history (version, timeline, token) SELECT version, timeline, token FROM slot_table;

-- The newest timeline that the process is known to have taken part in: 0 = none.
ALTER TABLE lease ADD COLUMN timeline INTEGER NOT NULL DEFAULT 0;
