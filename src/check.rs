//! `changeover check`: every finding of the preflight, a row each.

use std::process::ExitCode;

use config::Config;
use config::progress::Severity;

/// Prints the findings; exit code 1 where one is fatal.
pub(crate) async fn run(config: &Config) -> anyhow::Result<ExitCode> {
    let findings = replicator::preflight::check(config, false).await?;
    let mut fatal = false;
    for finding in &findings {
        let severity = match finding.severity {
            Severity::Note => "note",
            Severity::Warning => "warning",
            Severity::Fatal => {
                fatal = true;
                "fatal"
            }
        };
        println!("{severity:<8} {}: {}", finding.subject, finding.message);
    }
    if fatal {
        println!("This migration can't start: mend what is marked fatal and check again.");
        return Ok(ExitCode::FAILURE);
    }
    println!("This migration can start.");
    Ok(ExitCode::SUCCESS)
}
