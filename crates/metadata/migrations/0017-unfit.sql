-- Projects of which nothing is started, since this host was not found to keep what their runs are promised.
CREATE TABLE unfit (
    project TEXT    NOT NULL PRIMARY KEY,
    since   INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
