//! Between columns and types: what a row holds is parsed like anything else from a disk.

use std::{str::FromStr, time::Duration};

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension as _, Row};
use torno_oci::RepositoryName;

use crate::MetadataError;

/// A column of text, parsed.
pub(crate) fn parsed<T: FromStr>(row: &Row<'_>, column: &'static str) -> Result<T, MetadataError> {
    row.get_ref(column)?
        .as_str()
        .ok()
        .and_then(|text| text.parse().ok())
        .ok_or(MetadataError::Corrupt(column))
}

/// A column of text that may be empty, parsed.
pub(crate) fn parsed_option<T: FromStr>(
    row: &Row<'_>,
    column: &'static str,
) -> Result<Option<T>, MetadataError> {
    let text: Option<String> = row.get(column)?;
    text.map(|text| text.parse().map_err(|_| MetadataError::Corrupt(column))).transpose()
}

/// A column of milliseconds since 1970.
pub(crate) fn time(row: &Row<'_>, column: &'static str) -> Result<Timestamp, MetadataError> {
    Timestamp::from_millisecond(row.get(column)?).map_err(|_| MetadataError::Corrupt(column))
}

/// The same, which may be empty.
pub(crate) fn time_option(row: &Row<'_>, column: &'static str) -> Result<Option<Timestamp>, MetadataError> {
    let millis: Option<i64> = row.get(column)?;
    millis
        .map(|millis| Timestamp::from_millisecond(millis).map_err(|_| MetadataError::Corrupt(column)))
        .transpose()
}

/// A size or a count.
pub(crate) fn number(row: &Row<'_>, column: &'static str) -> Result<u64, MetadataError> {
    u64::try_from(row.get::<_, i64>(column)?).map_err(|_| MetadataError::Corrupt(column))
}

/// A size or a count on its way into a column; past 2⁶³ it stays there.
pub(crate) fn integer(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// A time span on its way into a column of milliseconds.
pub(crate) fn millis(span: Duration) -> i64 {
    i64::try_from(span.as_millis()).unwrap_or(i64::MAX)
}

/// Every row of a query, turned into a value.
pub(crate) fn all<T>(
    connection: &Connection,
    sql: &str,
    parameters: impl rusqlite::Params,
    value: impl Fn(&Row<'_>) -> Result<T, MetadataError>,
) -> Result<Vec<T>, MetadataError> {
    let mut statement = connection.prepare_cached(sql)?;
    let mut rows = statement.query(parameters)?;
    let mut values = Vec::new();
    while let Some(row) = rows.next()? {
        values.push(value(row)?);
    }
    Ok(values)
}

/// The first row of a query, if there is one.
pub(crate) fn first<T>(
    connection: &Connection,
    sql: &str,
    parameters: impl rusqlite::Params,
    value: impl Fn(&Row<'_>) -> Result<T, MetadataError>,
) -> Result<Option<T>, MetadataError> {
    let mut statement = connection.prepare_cached(sql)?;
    let mut rows = statement.query(parameters)?;
    rows.next()?.map(value).transpose()
}

/// Whether a query has a row.
pub(crate) fn exists(
    connection: &Connection,
    sql: &str,
    parameters: impl rusqlite::Params,
) -> Result<bool, MetadataError> {
    Ok(connection.prepare_cached(sql)?.exists(parameters)?)
}

/// Runs a statement and tells how many rows it changed.
pub(crate) fn execute(
    connection: &Connection,
    sql: &str,
    parameters: impl rusqlite::Params,
) -> Result<usize, MetadataError> {
    Ok(connection.prepare_cached(sql)?.execute(parameters)?)
}

/// The row of a repository.
pub(crate) fn repository_id(
    connection: &Connection,
    name: &RepositoryName,
) -> Result<Option<i64>, MetadataError> {
    let mut statement = connection.prepare_cached("SELECT id FROM repositories WHERE name = ?1")?;
    Ok(statement.query_row([name.as_str()], |row| row.get(0)).optional()?)
}
