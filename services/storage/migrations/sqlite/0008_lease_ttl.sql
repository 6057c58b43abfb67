-- The term of each lease: an end that lies further ahead than it tells of a clock that was set back.
ALTER TABLE lease ADD COLUMN ttl_ms INTEGER NOT NULL DEFAULT 4000;
