-- The order of an archive is (epoch, counter) alone; at_ms is in the indexes for who asks for a time.

DROP INDEX archive_in_order;
CREATE UNIQUE INDEX archive_in_order ON archive (archive, epoch, counter, at_ms);
DROP INDEX archive_by_peer;
CREATE INDEX archive_by_peer ON archive (archive, peer, epoch, counter, at_ms);
