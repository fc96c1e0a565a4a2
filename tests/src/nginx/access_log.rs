//! nginx's access log: the format it is told to write, and what a line means.
//!
//! In: a line. Out: a [`LoggedRequest`] with its attempts. nginx writes one value for each
//! attempt, with `, ` between them, and ` : ` where an internal redirect began a new group.

use std::str::FromStr;

use anyhow::{Context, Error, Result, ensure};

/// The variables, in order; `\t` between them.
const VARIABLES: [&str; 18] = [
    "msec",
    "request_id",
    "uri",
    "request_method",
    "status",
    "upstream_addr",
    "upstream_status",
    "upstream_connect_time",
    "upstream_header_time",
    "upstream_response_time",
    "upstream_bytes_sent",
    "upstream_bytes_received",
    "request_time",
    "request_length",
    "bytes_sent",
    "connection",
    "connection_requests",
    "pid",
];

/// What nginx logs (as `009`) for an answer that was not HTTP.
const NOT_HTTP: u16 = 9;

/// One request as nginx saw it.
#[derive(Clone, Debug)]
pub struct LoggedRequest {
    /// Time of the line, seconds since the epoch.
    pub time: f64,
    /// `$request_id`.
    pub request_id: String,
    /// Path, decoded, without query.
    pub path: String,
    /// Method.
    pub method: String,
    /// Status: 499 when the client left, 9 when the upstream's answer was not HTTP.
    pub status: u16,
    /// Attempts in order.
    pub attempts: Vec<LoggedAttempt>,
    /// First byte read to last byte written, seconds.
    pub request_seconds: f64,
    /// Bytes given to the client.
    pub bytes_sent: u64,
    /// Serial number of the client's connection.
    pub connection: u64,
    /// Worker.
    pub pid: u32,
}

/// One attempt as nginx saw it.
#[derive(Clone, Debug, PartialEq)]
pub struct LoggedAttempt {
    /// Address and port, or the name of the group when none of it was live.
    pub upstream: String,
    /// The upstream's status; nginx writes 502 or 504 here for a failure of its own.
    pub status: Option<u16>,
    /// Start to connected, seconds; 0 on a reused connection, none when it failed.
    pub connect_seconds: Option<f64>,
    /// Start to the whole head, seconds; none when there was no head.
    pub header_seconds: Option<f64>,
    /// Start to the end, seconds.
    pub response_seconds: Option<f64>,
    /// Bytes to the upstream.
    pub bytes_sent: Option<u64>,
    /// Bytes from the upstream.
    pub bytes_received: Option<u64>,
}

/// The `log_format` directive of the format `judge`.
pub(super) fn format_directive() -> String {
    let variables: Vec<String> = VARIABLES.iter().map(|name| format!("${name}")).collect();
    format!("log_format judge '{}';\n", variables.join("\\t"))
}

impl LoggedRequest {
    /// The status the client got, as a client would tell: none when it left, when nothing
    /// was sent, or when what was sent had no status line.
    pub fn answered(&self) -> Option<u16> {
        (self.bytes_sent > 0 && self.status >= 100 && self.status != 499).then_some(self.status)
    }

    /// Attempts that went to an address, not those refused for want of a live one.
    pub fn tried(&self) -> impl Iterator<Item = &LoggedAttempt> {
        self.attempts
            .iter()
            .filter(|attempt| attempt.is_of_a_peer())
    }
}

impl LoggedAttempt {
    /// Whether a server was tried; else the group had none that was live.
    pub fn is_of_a_peer(&self) -> bool {
        self.upstream.parse::<std::net::SocketAddr>().is_ok() || self.upstream.starts_with("unix:")
    }

    /// The status the upstream itself gave: a head was parsed, and it was HTTP.
    pub fn answered(&self) -> Option<u16> {
        self.header_seconds
            .and(self.status)
            .filter(|status| *status >= 100)
    }
}

impl FromStr for LoggedRequest {
    type Err = Error;

    fn from_str(line: &str) -> Result<Self> {
        let values: Vec<&str> = line.split('\t').collect();
        ensure!(
            values.len() == VARIABLES.len(),
            "{} values, {} expected",
            values.len(),
            VARIABLES.len()
        );
        let value = |name: &str| -> Result<&str> {
            let index = VARIABLES.iter().position(|variable| *variable == name);
            index
                .and_then(|index| values.get(index).copied())
                .with_context(|| format!("no ${name}"))
        };
        let addresses = each(value("upstream_addr")?);
        let column = |name: &str| -> Result<Vec<&str>> {
            let column = each(value(name)?);
            ensure!(
                column.len() == addresses.len(),
                "${name} has {} values for {} attempts",
                column.len(),
                addresses.len()
            );
            Ok(column)
        };
        let status: u16 = value("status")?.parse()?;
        let mut statuses = column("upstream_status")?;
        if status == NOT_HTTP {
            // nginx passes on what it does not understand and writes 200 for the upstream,
            // which sent no status.
            if let Some(last) = statuses.last_mut() {
                *last = "-";
            }
        }
        let connects = column("upstream_connect_time")?;
        let headers = column("upstream_header_time")?;
        let responses = column("upstream_response_time")?;
        let sent = column("upstream_bytes_sent")?;
        let received = column("upstream_bytes_received")?;
        let attempts = addresses
            .iter()
            .enumerate()
            .filter(|(_, address)| **address != "-")
            .map(|(index, address)| {
                Ok(LoggedAttempt {
                    upstream: (*address).to_owned(),
                    status: number(statuses.get(index))?,
                    connect_seconds: number(connects.get(index))?,
                    header_seconds: number(headers.get(index))?,
                    response_seconds: number(responses.get(index))?,
                    bytes_sent: number(sent.get(index))?,
                    bytes_received: number(received.get(index))?,
                })
            })
            .collect::<Result<_>>()?;
        Ok(Self {
            time: value("msec")?.parse()?,
            request_id: value("request_id")?.to_owned(),
            path: value("uri")?.to_owned(),
            method: value("request_method")?.to_owned(),
            status,
            attempts,
            request_seconds: value("request_time")?.parse()?,
            bytes_sent: value("bytes_sent")?.parse()?,
            connection: value("connection")?.parse()?,
            pid: value("pid")?.parse()?,
        })
    }
}

/// The value of each attempt.
fn each(values: &str) -> Vec<&str> {
    values
        .split(" : ")
        .flat_map(|group| group.split(", "))
        .map(str::trim)
        .collect()
}

/// A number; none for `-`.
fn number<T>(value: Option<&&str>) -> Result<Option<T>>
where
    T: FromStr,
    T::Err: std::error::Error + Send + Sync + 'static,
{
    match value {
        None | Some(&"-") => Ok(None),
        Some(value) => value
            .parse()
            .map(Some)
            .with_context(|| format!("`{value}` is no number")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_several_attempts_are_told_apart() {
        let line = "1669161600.123\tabc\t/many/1/2/reset\tGET\t200\t\
                    127.0.0.1:9001, 127.0.0.1:9002 : [::1]:9003\t502, 502 : 200\t\
                    -, 0.001 : 0.000\t-, - : 0.004\t0.000, 0.002 : 0.005\t0, 90 : 90\t\
                    0, 0 : 120\t0.007\t95\t160\t17\t3\t4711";

        let request: LoggedRequest = line.parse().unwrap();

        assert_eq!(request.attempts.len(), 3);
        let last = request.attempts.last().unwrap();
        assert_eq!(last.upstream, "[::1]:9003");
        assert_eq!(last.answered(), Some(200));
        let first = request.attempts.first().unwrap();
        assert_eq!(first.status, Some(502));
        assert_eq!(first.answered(), None);
        assert_eq!(request.answered(), Some(200));
    }

    #[test]
    fn a_group_without_a_live_server_is_no_peer() {
        let line =
            "1.0\ta\t/dead/1/2/ok\tGET\t502\tdead\t502\t-\t-\t0.000\t0\t0\t0.000\t9\t150\t1\t1\t1";

        let request: LoggedRequest = line.parse().unwrap();

        assert_eq!(request.tried().count(), 0);
        assert_eq!(request.answered(), Some(502));
    }
}
