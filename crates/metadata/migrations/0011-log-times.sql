-- When the ends of stdout and stderr were printed; JSON, see RunLog.
ALTER TABLE runs ADD COLUMN log_times TEXT;
