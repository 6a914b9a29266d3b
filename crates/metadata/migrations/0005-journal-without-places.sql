-- Who puts a file in place, and gc, exclude each other by a lock on the files: nothing of it stands here.
ALTER TABLE journal DROP COLUMN placing;
