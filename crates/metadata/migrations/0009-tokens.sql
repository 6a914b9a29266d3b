-- Tokens that people and machines keep, by the hash of their secret. `kind`: 'personal' if somebody made it, 'login' if a
-- client keeps it in place of a password. `account`: where its user is known from. `scope`: what it is good for at most, NULL: for all that its user may do.
-- `groups`: those that a directory named when it was made, with spaces between. `voucher`: what stood behind the password
-- it was made with. Revoked ones stay, so that the list says what became of them.
CREATE TABLE tokens (
    id          TEXT    NOT NULL PRIMARY KEY,
    user        TEXT    NOT NULL,
    kind        TEXT    NOT NULL CHECK (kind IN ('personal', 'login')),
    account     TEXT    NOT NULL CHECK (account IN ('file', 'robot', 'directory', 'provider')),
    hash        BLOB    NOT NULL,
    scope       TEXT,
    groups      TEXT    NOT NULL,
    voucher     TEXT,
    description TEXT    NOT NULL,
    created     INTEGER NOT NULL,
    expires     INTEGER,
    used        INTEGER,
    revoked     INTEGER
) STRICT, WITHOUT ROWID;
CREATE INDEX tokens_by_user ON tokens (user, created);
