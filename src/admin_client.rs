//! `changeover admin`: one statement to the admin port, printed as the mysql client would.

use std::process::ExitCode;

use anyhow::{Context, bail};
use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Opts, OptsBuilder, Row, Value};

/// Runs `sql` and prints its rows; `\G` at its end prints them vertically.
pub(crate) async fn run(url: &str, sql: &str) -> anyhow::Result<ExitCode> {
    // The url may hold a password, so no error repeats it (invariant 8).
    let Ok(opts) = Opts::from_url(url) else {
        bail!("--url is not of the form mysql://user:password@host:port");
    };
    let address = format!("{}:{}", opts.ip_or_hostname(), opts.tcp_port());
    let opts = OptsBuilder::from_opts(opts).prefer_socket(false).stmt_cache_size(0);
    let mut conn = Conn::new(opts).await.with_context(|| {
        format!("can't log in at the admin port {address}; is `changeover serve` running?")
    })?;
    let (sql, vertical) = match sql.trim_end().strip_suffix("\\G") {
        Some(sql) => (sql, true),
        None => (sql.trim_end(), false),
    };
    let mut result = match conn.query_iter(sql).await {
        Ok(result) => result,
        Err(mysql_async::Error::Server(error)) => {
            eprintln!("ERROR {} ({}): {}", error.code, error.state, error.message);
            return Ok(ExitCode::FAILURE);
        }
        Err(error) => return Err(error).context("the admin port answered something unexpected"),
    };
    let names: Vec<String> =
        result.columns_ref().iter().map(|column| column.name_str().into_owned()).collect();
    let rows: Vec<Row> = result.collect().await.context("the answer broke off")?;
    let rows: Vec<Vec<String>> =
        rows.into_iter().map(|row| row.unwrap().into_iter().map(cell).collect()).collect();
    if names.is_empty() {
        println!("OK");
    } else if vertical {
        print!("{}", vertical_text(&names, &rows));
    } else {
        print!("{}", table_text(&names, &rows));
    }
    conn.disconnect().await.ok();
    Ok(ExitCode::SUCCESS)
}

fn cell(value: Value) -> String {
    match value {
        Value::NULL => "NULL".to_owned(),
        Value::Bytes(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        other => other.as_sql(true).trim_matches('\'').to_owned(),
    }
}

fn width(text: &str) -> usize {
    text.chars().count()
}

fn table_text(names: &[String], rows: &[Vec<String>]) -> String {
    let widths: Vec<usize> = names
        .iter()
        .enumerate()
        .map(|(i, name)| {
            rows.iter().filter_map(|row| row.get(i)).map(|c| width(c)).fold(width(name), usize::max)
        })
        .collect();
    let rule: String = widths.iter().map(|w| format!("+{}", "-".repeat(w + 2))).collect::<String>() + "+\n";
    let line = |cells: &[String]| {
        let mut text = String::new();
        for (cell, w) in cells.iter().zip(&widths) {
            text.push_str(&format!("| {cell}{} ", " ".repeat(w - width(cell))));
        }
        text + "|\n"
    };
    let body: String = rows.iter().map(|row| line(row)).collect();
    format!("{rule}{}{rule}{body}{rule}", line(names))
}

fn vertical_text(names: &[String], rows: &[Vec<String>]) -> String {
    let widest = names.iter().map(|name| width(name)).max().unwrap_or(0);
    let mut text = String::new();
    for (number, row) in rows.iter().enumerate() {
        text.push_str(&format!(
            "*************************** {}. row ***************************\n",
            number + 1
        ));
        for (name, cell) in names.iter().zip(row) {
            text.push_str(&format!("{name:>widest$}: {cell}\n"));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_as_wide_as_its_widest_cell() {
        let names = vec!["id".to_owned(), "note".to_owned()];
        let rows = vec![vec!["1".to_owned(), "größer".to_owned()]];
        assert_eq!(
            table_text(&names, &rows),
            "+----+--------+\n| id | note   |\n+----+--------+\n| 1  | größer |\n+----+--------+\n"
        );
    }

    #[test]
    fn vertical_output_aligns_the_names() {
        let names = vec!["id".to_owned(), "note".to_owned()];
        let rows = vec![vec!["1".to_owned(), "x".to_owned()]];
        assert!(vertical_text(&names, &rows).ends_with("  id: 1\nnote: x\n"));
    }
}
