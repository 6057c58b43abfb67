//! Which versions of the protocol between tiers a process speaks: a header of every call and of every
//! answer between tiers, which both sides check.

use std::sync::OnceLock;

use sestina_proto::versions::{NoCommon, Range};
use sestina_runtime::logged::Logged;
use tonic::Status;
use tonic::codegen::http::{HeaderMap, HeaderName, HeaderValue};
use tonic::metadata::MetadataMap;

/// `oldest-newest`. A process that sends no such header is from before there was a second version.
const VERSIONS: HeaderName = HeaderName::from_static("sestina-versions");
/// Marks a refusal whose reason is the versions.
const REFUSED: HeaderName = HeaderName::from_static("sestina-versions-refused");

/// What a process calls itself in errors.
const US: &str = "this process";

fn ours() -> &'static HeaderValue {
    static OURS: OnceLock<HeaderValue> = OnceLock::new();
    OURS.get_or_init(|| {
        let Range { oldest, newest } = Range::ours();
        HeaderValue::from_str(&format!("{oldest}-{newest}"))
            .unwrap_or_else(|_| HeaderValue::from(newest))
    })
}

/// Adds the versions that this process speaks.
pub(crate) fn tell(headers: &mut HeaderMap) {
    headers.insert(VERSIONS, ours().clone());
}

fn told(header: Option<&HeaderValue>) -> Range {
    let text = header
        .and_then(|header| header.to_str().ok())
        .unwrap_or_default();
    let (oldest, newest) = text.split_once('-').unwrap_or((text, text));
    let number = |text: &str| text.parse().unwrap_or(0);
    Range::told(number(oldest), number(newest))
}

/// Whether this process and another have a version in common.
pub(crate) fn check(headers: &HeaderMap, them: &str) -> Result<(), NoCommon> {
    let theirs = headers.get(VERSIONS);
    // Nearly always both run the same program.
    if theirs == Some(ours()) {
        return Ok(());
    }
    Range::ours().with(US, them, told(theirs)).map(drop)
}

/// The same for a refusal. It carries no versions if the call was refused before the other side
/// adds them.
pub(crate) fn check_refusal(metadata: &MetadataMap, them: &str) -> Result<(), NoCommon> {
    match metadata.as_ref().contains_key(VERSIONS) {
        true => check(metadata.as_ref(), them),
        false => Ok(()),
    }
}

/// The error that refuses a call, or an answer.
pub(crate) fn refusal(error: &NoCommon) -> Status {
    let mut headers = HeaderMap::new();
    headers.insert(REFUSED, HeaderValue::from_static("1"));
    let metadata = MetadataMap::from_headers(headers);
    Status::with_metadata(tonic::Code::FailedPrecondition, error.to_string(), metadata)
}

/// Whether a call was refused because of the versions: another replica may speak others.
pub(crate) fn is_refusal(status: &Status) -> bool {
    status.metadata().as_ref().contains_key(REFUSED)
}

/// Logs that a process was refused, once for each process.
pub(crate) fn warn(them: &str, error: &NoCommon) -> bool {
    static REFUSED: Logged = Logged::new();
    // A caller has another port on each connection.
    let name = match them.rsplit_once(':') {
        Some((host, _)) if !them.contains('(') => host,
        _ => them,
    };
    let first = REFUSED.is_first(format!("{name} {}", error.theirs));
    if first {
        tracing::warn!(peer = them, %error, "refused a process of another version");
    }
    first
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(text: &'static str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(VERSIONS, HeaderValue::from_static(text));
        headers
    }

    #[test]
    fn a_process_without_a_common_version_is_refused_and_one_that_sends_no_versions_speaks_the_first()
     {
        let mut own = HeaderMap::new();
        tell(&mut own);
        assert_eq!(check(&own, "r1"), Ok(()));
        let first = Range::told(0, 0);
        assert_eq!(
            check(&HeaderMap::new(), "r1").is_ok(),
            Range::ours().and(first).is_some()
        );
        let error = check(&headers("900-901"), "r1").expect_err("a far version");
        let text = error.to_string();
        assert!(text.contains("900 to 901") && text.contains("r1"), "{text}");
        assert!(is_refusal(&refusal(&error)));
        assert!(!is_refusal(&Status::failed_precondition("another cluster")));
        let nonsense = check(&headers("soon"), "r1").is_ok();
        assert_eq!(nonsense, Range::ours().and(first).is_some());
    }

    #[test]
    fn a_refused_process_is_logged_once() {
        let error = check(&headers("900-901"), "r9").expect_err("a far version");
        assert!(warn("10.9.8.7:5000", &error), "not logged");
        assert!(!warn("10.9.8.7:5001", &error), "logged at each connection");
        assert!(warn("10.9.8.8:5001", &error), "another host");
    }
}
