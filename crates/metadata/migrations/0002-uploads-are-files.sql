-- An upload session is its file; its name proves whose it is.
DROP TABLE uploads;
