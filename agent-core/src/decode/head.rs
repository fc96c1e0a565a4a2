//! Message heads: the few fields that are kept of a request or response head.
//!
//! In: head bytes as captured, possibly cut. Out: what they tell. A head that is cut,
//! malformed or has too many fields still gives its first line and the fields before the
//! fault; only bytes that do not even start like a message give `None`.
//! Strings are bounded, and bytes that are not UTF-8 are replaced.

use std::borrow::Cow;
use std::mem::MaybeUninit;
use std::sync::Arc;

use httparse::{EMPTY_HEADER, Header, ParserConfig, Status};
use smol_str::SmolStr;

use crate::observation::{RequestHead, ResponseHead};

/// Bytes of a path that are kept. Too small: long routes look alike. Too large: incidents
/// and join keys grow.
const PATH_BYTES: usize = 512;
/// Bytes of a Host that are kept; a DNS name has at most 253 (RFC 1035, 2.3.4).
const HOST_BYTES: usize = 256;
/// Bytes of a request id that are kept; the longest in use are a few UUIDs.
const ID_BYTES: usize = 128;
/// Bytes of a method that are kept; the longest registered one has 17.
const METHOD_BYTES: usize = 32;
/// Header fields that are looked at. Too small: fields late in a head are missed. Too
/// large: every head pays for clearing the table. Proxies allow about 100.
const FIELDS: usize = 96;

/// Parses a request head.
pub fn request(bytes: &[u8]) -> Option<RequestHead> {
    let mut unset = [const { MaybeUninit::uninit() }; FIELDS];
    let mut parsed = httparse::Request::new(&mut []);
    if let Ok(Status::Complete(_)) = parsed.parse_with_uninit_headers(bytes, &mut unset) {
        return request_of(&parsed, bytes);
    }
    // What was read before a cut or a fault is found in fields that were set before only.
    let mut fields = [EMPTY_HEADER; FIELDS];
    let mut parsed = httparse::Request::new(&mut fields);
    let _outcome = parsed.parse(bytes);
    request_of(&parsed, bytes)
}

fn request_of(parsed: &httparse::Request<'_, '_>, bytes: &[u8]) -> Option<RequestHead> {
    let (method, target) = match (parsed.method, parsed.path) {
        (Some(method), Some(target)) => (Cow::Borrowed(method), Cow::Borrowed(target)),
        _ => request_line_by_hand(bytes)?,
    };
    let (authority, path) = split_target(&target);
    let mut head = RequestHead {
        method: bounded(&method, METHOD_BYTES),
        path: bounded(path, PATH_BYTES),
        host: authority.map(|host| bounded(host, HOST_BYTES)),
        ..RequestHead::default()
    };
    let mut second_choice_id = None;
    for field in parsed
        .headers
        .iter()
        .take_while(|field| !field.name.is_empty())
    {
        let name = field.name;
        // The length is compared first: most fields are told apart by it alone.
        match name.len() {
            4 if name.eq_ignore_ascii_case("host") && head.host.is_none() => {
                head.host = Some(text(field.value, HOST_BYTES));
            }
            10 if name.eq_ignore_ascii_case("request-id") => {
                second_choice_id.get_or_insert_with(|| id(field.value));
            }
            11 if name.eq_ignore_ascii_case("traceparent") => {
                head.trace_id = trace_id(field.value);
            }
            12 if name.eq_ignore_ascii_case("x-request-id") => {
                head.request_id = Some(id(field.value));
            }
            14 if name.eq_ignore_ascii_case("content-length") => {
                head.content_length = decimal(field.value);
            }
            16 if name.eq_ignore_ascii_case("x-correlation-id") => {
                second_choice_id.get_or_insert_with(|| id(field.value));
            }
            17 if name.eq_ignore_ascii_case("transfer-encoding") => {
                head.chunked = ends_in_chunked(field.value);
            }
            _ => {}
        }
    }
    head.request_id = head.request_id.or(second_choice_id);
    Some(head)
}

/// Parses a response head, which must be the final one (not 1xx, save 101).
pub fn response(bytes: &[u8]) -> Option<ResponseHead> {
    // As lenient as the proxies are: what they pass on must not be called malformed.
    let mut config = ParserConfig::default();
    config
        .allow_spaces_after_header_name_in_responses(true)
        .allow_obsolete_multiline_headers_in_responses(true)
        .allow_multiple_spaces_in_response_status_delimiters(true);
    let mut unset = [const { MaybeUninit::uninit() }; FIELDS];
    let mut parsed = httparse::Response::new(&mut []);
    let outcome = config.parse_response_with_uninit_headers(&mut parsed, bytes, &mut unset);
    let status = parsed.code.or_else(|| status_by_hand(bytes))?;
    let malformed = match outcome {
        Ok(Status::Complete(_)) => is_framed_badly(status, parsed.headers, bytes),
        Ok(Status::Partial) => {
            // As with requests.
            let mut fields = [EMPTY_HEADER; FIELDS];
            let mut parsed = httparse::Response::new(&mut fields);
            let _outcome = config.parse_response(&mut parsed, bytes);
            is_framed_badly(status, parsed.headers, bytes)
        }
        Err(httparse::Error::TooManyHeaders) => false,
        Err(_) => true,
    };
    Some(ResponseHead {
        status,
        malformed,
        interim: false,
    })
}

/// Status of a response of which the first line was captured, and nothing else is wanted.
pub fn status_line(bytes: &[u8]) -> Option<ResponseHead> {
    let status = status_by_hand(bytes)?;
    Some(ResponseHead {
        status,
        malformed: false,
        interim: false,
    })
}

/// What tells the end of the body breaks a rule of RFC 9112 (5.1, 6.1 to 6.3) that some proxies
/// refuse: two framings at once, lengths that differ or are no numbers, more than one
/// Transfer-Encoding or one that does not end in chunked, any of it in an answer without a body,
/// or a space before the colon.
fn is_framed_badly(status: u16, fields: &[Header<'_>], bytes: &[u8]) -> bool {
    let mut length: Option<&[u8]> = None;
    let mut coding: Option<&[u8]> = None;
    for field in fields.iter().take_while(|field| !field.name.is_empty()) {
        let is = |name: &str| field.name.eq_ignore_ascii_case(name);
        let framing = if is("content-length") {
            let value = field.value.trim_ascii();
            if decimal(value).is_none() || length.is_some_and(|before| before != value) {
                return true;
            }
            length = Some(value);
            true
        } else if is("transfer-encoding") {
            if coding.is_some() || !ends_in_chunked(field.value) {
                return true;
            }
            coding = Some(field.value);
            true
        } else {
            false
        };
        if framing && !is_before_colon(field.name, bytes) {
            return true;
        }
    }
    let has_body = coding.is_some() || length.is_some_and(|length| decimal(length) != Some(0));
    coding.is_some() && length.is_some() || has_body && status == 204
}

/// Whether the colon follows at once. A name is a part of `bytes`.
fn is_before_colon(name: &str, bytes: &[u8]) -> bool {
    let end = (name.as_ptr() as usize).wrapping_sub(bytes.as_ptr() as usize) + name.len();
    bytes.get(end).is_none_or(|next| *next == b':')
}

/// Method and target of a request line that the parser would not give whole: cut in the
/// middle of the target, or with bytes that are not allowed in one.
fn request_line_by_hand(bytes: &[u8]) -> Option<(Cow<'_, str>, Cow<'_, str>)> {
    let line = first_line(bytes);
    let space = line.iter().position(|byte| *byte == b' ')?;
    let (method, rest) = (&line[..space], &line[space + 1..]);
    if method.is_empty() || method.len() > METHOD_BYTES || !method.iter().all(is_token) {
        return None;
    }
    let end = rest
        .iter()
        .position(|byte| *byte == b' ')
        .unwrap_or(rest.len());
    Some((
        String::from_utf8_lossy(method),
        String::from_utf8_lossy(&rest[..end]),
    ))
}

fn status_by_hand(bytes: &[u8]) -> Option<u16> {
    let rest = first_line(bytes).strip_prefix(b"HTTP/1.")?;
    let [_minor, b' ', hundreds, tens, ones, ..] = rest else {
        return None;
    };
    let digits = [hundreds, tens, ones];
    if !digits.iter().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    Some(
        digits
            .iter()
            .fold(0, |sum, digit| sum * 10 + u16::from(**digit - b'0')),
    )
}

fn first_line(bytes: &[u8]) -> &[u8] {
    // RFC 9112, 2.2: empty lines before the start line are ignored.
    let start = bytes
        .iter()
        .position(|byte| !matches!(byte, b'\r' | b'\n'))
        .unwrap_or(0);
    let line = &bytes[start..];
    let end = line
        .iter()
        .position(|byte| matches!(byte, b'\r' | b'\n'))
        .unwrap_or(line.len());
    &line[..end]
}

/// Authority (of an absolute target, RFC 9112, 3.2.2) and path, query and user info cut.
fn split_target(target: &str) -> (Option<&str>, &str) {
    let before_query = target.split(['?', '#']).next().unwrap_or(target);
    let Some((_, rest)) = before_query
        .split_once("://")
        .filter(|_| !target.starts_with('/'))
    else {
        return (None, before_query);
    };
    let (authority, path) = match rest.find('/') {
        Some(slash) => (&rest[..slash], &rest[slash..]),
        None => (rest, "/"),
    };
    let host = authority
        .rsplit_once('@')
        .map_or(authority, |(_, host)| host);
    (Some(host), path)
}

/// Trace id of a W3C `traceparent`: `version-traceid-parentid-flags`.
fn trace_id(value: &[u8]) -> Option<Arc<str>> {
    let digits = value.get(3..35).filter(|_| value.get(2) == Some(&b'-'))?;
    let valid = digits.iter().all(u8::is_ascii_hexdigit)
        && digits.iter().any(|digit| *digit != b'0')
        && value.get(35) == Some(&b'-');
    valid.then(|| id(digits))
}

/// RFC 9110, 8.6: digits only; a value that does not fit is as good as none.
fn decimal(value: &[u8]) -> Option<u64> {
    let digits = value.trim_ascii();
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0u64, |sum, digit| {
        let digit = digit.is_ascii_digit().then(|| u64::from(digit - b'0'))?;
        sum.checked_mul(10)?.checked_add(digit)
    })
}

fn ends_in_chunked(value: &[u8]) -> bool {
    value
        .rsplit(|byte| *byte == b',')
        .next()
        .is_some_and(|last| last.trim_ascii().eq_ignore_ascii_case(b"chunked"))
}

fn is_token(byte: &u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte)
}

fn id(value: &[u8]) -> Arc<str> {
    Arc::from(text(value, ID_BYTES).as_str())
}

fn text(value: &[u8], limit: usize) -> SmolStr {
    bounded(
        &String::from_utf8_lossy(&value[..value.len().min(limit)]),
        limit,
    )
}

/// The first `limit` bytes, control characters replaced: what a client sent is shown in terminals.
fn bounded(value: &str, limit: usize) -> SmolStr {
    let value = &value[..value.floor_char_boundary(limit)];
    if value.bytes().all(|byte| (b' '..0x7f).contains(&byte)) {
        return value.into();
    }
    value
        .chars()
        .map(|char| if char.is_control() { '.' } else { char })
        .collect()
}
