-- The order of an archive is (epoch, counter) alone. Times are those of clocks, which may be wrong
-- for a while: they choose the month of a row, and answer who asks for a time.

ALTER TABLE archive DROP CONSTRAINT archive_pkey;
ALTER TABLE archive ADD PRIMARY KEY (archive, epoch, counter, at_ms);
DROP INDEX archive_by_peer;
CREATE INDEX archive_by_peer ON archive (archive, peer, epoch, counter, at_ms);
