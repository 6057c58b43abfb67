-- Data of modules about an entity (a user, a room or a node), by name. Older programs neither read nor
-- write it, so the format stays 1.
CREATE TABLE entity_data (
    entity TEXT NOT NULL,
    name   TEXT NOT NULL,
    value  BLOB NOT NULL,
    PRIMARY KEY (entity, name)
);

-- An account takes its data along, and a new one begins without any, also where a session of the former
-- account has written after its removal. Triggers, so that this holds for accounts that an older program
-- removes or creates.
CREATE TRIGGER account_takes_its_data AFTER DELETE ON account
BEGIN
    DELETE FROM entity_data WHERE entity = OLD.bare;
END;
CREATE TRIGGER account_begins_without_data AFTER INSERT ON account
BEGIN
    DELETE FROM entity_data WHERE entity = NEW.bare;
END;
