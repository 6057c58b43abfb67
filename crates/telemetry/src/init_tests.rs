#![allow(clippy::unwrap_used)]
use std::time::Instant;

use super::*;
use crate::trace;

#[test]
fn a_wrong_filter_is_refused() {
    let config = Telemetry {
        log: "info,=".to_owned(),
        ..Telemetry::default()
    };
    let error = init(&config, "edge", "e1").unwrap_err();
    assert!(matches!(error, TelemetryError::Filter(_)), "{error}");
}

#[test]
fn a_collector_needs_a_runtime() {
    let config = Telemetry {
        otlp_endpoint: Some("http://127.0.0.1:1".to_owned()),
        ..Telemetry::default()
    };
    let error = init(&config, "edge", "e1").unwrap_err();
    assert!(matches!(error, TelemetryError::NoRuntime), "{error}");
}

#[tokio::test]
async fn a_missing_authority_is_named() {
    let config = Telemetry {
        otlp_endpoint: Some("https://collector:4317".to_owned()),
        otlp_ca: Some("/nonexistent/ca.pem".into()),
        ..Telemetry::default()
    };
    let error = init(&config, "edge", "e1").unwrap_err().to_string();
    assert!(error.contains("/nonexistent/ca.pem"), "{error}");
}

/// The only test that sets up logging for the whole process. The next test runs it as a child, so
/// that it does not affect the others.
#[test]
fn child_with_a_collector_that_is_away() {
    if std::env::var("SESTINA_TEST_CHILD").is_err() {
        return;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let config = Telemetry {
            // No process listens on the discard port of this machine.
            otlp_endpoint: Some("http://127.0.0.1:9".to_owned()),
            log_format: LogFormat::Json,
            trace_ratio: 1.0,
            ..Telemetry::default()
        };
        let guard = init(&config, "edge", "e1").unwrap();
        assert!(matches!(
            init(&config, "edge", "e1"),
            Err(TelemetryError::Twice)
        ));
        let before = Instant::now();
        // More than the capacity of the exporters' queues.
        for n in 0..10_000 {
            let span = trace::stanza_span("message");
            let _entered = span.enter();
            assert!(trace::current_traceparent().is_some());
            tracing::debug!(n, "not written at this level");
        }
        assert!(
            before.elapsed().as_secs() < 5,
            "spans waited for the collector"
        );
        tracing::info!("visible line");
        guard.set_log_filter("off").unwrap();
        tracing::error!("invisible line");
        assert!(guard.set_log_filter("=,=").is_err());
        guard.set_log_filter("warn").unwrap();
        tracing::warn!("visible again");
        let before = Instant::now();
        guard.shutdown().await;
        assert!(
            before.elapsed() < LAST + Duration::from_secs(2),
            "{:?}",
            before.elapsed()
        );
    });
}

#[test]
fn a_collector_that_is_away_holds_up_nothing() {
    let output = std::process::Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "init::tests::child_with_a_collector_that_is_away",
            "--nocapture",
        ])
        .env("SESTINA_TEST_CHILD", "1")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{text}{}",
        String::from_utf8_lossy(&output.stdout)
    );
    assert!(text.contains("\"message\":\"visible line\""), "{text}");
    assert!(text.contains("\"message\":\"visible again\""), "{text}");
    assert!(!text.contains("invisible line"), "{text}");
    assert!(!text.contains("not written"), "{text}");
}
