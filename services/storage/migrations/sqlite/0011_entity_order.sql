-- The last write of an entity's data: an earlier one that arrives late changes nothing. It stays when the data
-- is deleted. Older programs neither read nor write it, so the format stays 1.
CREATE TABLE entity_order (
    entity  TEXT NOT NULL PRIMARY KEY,
    epoch   INTEGER NOT NULL,
    counter INTEGER NOT NULL
);

-- It goes with the account, as the data does.
CREATE TRIGGER account_takes_its_order AFTER DELETE ON account
BEGIN
    DELETE FROM entity_order WHERE entity = OLD.bare;
END;
CREATE TRIGGER account_begins_without_order AFTER INSERT ON account
BEGIN
    DELETE FROM entity_order WHERE entity = NEW.bare;
END;
