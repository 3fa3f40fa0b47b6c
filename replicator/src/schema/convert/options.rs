//! What stands behind the brackets of CREATE TABLE: options and partitions.

use config::Family;

use super::Rewriter;
use super::token::{Kind, Token, closing, text};

/// Options that InnoDB has in both families, besides charset, collation and engine.
const KEPT: [&str; 12] = [
    "AUTO_INCREMENT",
    "COMMENT",
    "ROW_FORMAT",
    "KEY_BLOCK_SIZE",
    "STATS_PERSISTENT",
    "STATS_AUTO_RECALC",
    "STATS_SAMPLE_PAGES",
    "MAX_ROWS",
    "MIN_ROWS",
    "AVG_ROW_LENGTH",
    "CHECKSUM",
    "PACK_KEYS",
];
/// Those of them that OceanBase takes.
const KEPT_BY_OCEANBASE: [&str; 2] = ["AUTO_INCREMENT", "COMMENT"];
/// Row formats that InnoDB has.
const ROW_FORMATS: [&str; 5] = ["DEFAULT", "DYNAMIC", "COMPACT", "REDUNDANT", "COMPRESSED"];

/// An option: its words, an equals sign perhaps, its value.
struct TableOption {
    words: String,
    all: Vec<Token>,
    value: String,
}

impl Rewriter {
    /// Rewrites options and partitions.
    pub(super) fn options(&mut self, tokens: &[Token]) -> Vec<Token> {
        let partition = tokens.iter().position(|token| token.is("PARTITION"));
        let (options, partitions) = tokens.split_at(partition.unwrap_or(tokens.len()));
        let mut out = Vec::new();
        let options = split(options);
        let moved = options.iter().any(|option| option.words == "ENGINE" && !is_innodb(&option.value));
        for option in options {
            out.extend(self.option(option, moved));
        }
        let mut out = self.charsets("", out);
        out.extend(self.partitions(partitions));
        out
    }

    /// `moved`: the table comes from another engine, whose options mean nothing to InnoDB.
    fn option(&mut self, option: TableOption, moved: bool) -> Vec<Token> {
        let TableOption { words, mut all, value } = option;
        if words == "ENGINE" {
            if !is_innodb(&value) {
                if let Some(last) = all.last_mut() {
                    "InnoDB".clone_into(&mut last.text);
                }
                self.record("", "engine", &value, "InnoDB", false);
            }
            return all;
        }
        if matches!(words.as_str(), "CHARSET" | "CHARACTER SET" | "COLLATE" | "") {
            return all;
        }
        let row_format_fits =
            words != "ROW_FORMAT" || ROW_FORMATS.iter().any(|format| value.eq_ignore_ascii_case(format));
        let known = match self.to.family {
            Family::OceanBase => KEPT_BY_OCEANBASE.contains(&words.as_str()),
            Family::MySql | Family::MariaDb => KEPT.contains(&words.as_str()),
        };
        let foreign = self.from.family != self.to.family || self.from.version > self.to.version;
        if (known || (!foreign && !moved)) && row_format_fits && !(moved && words == "KEY_BLOCK_SIZE") {
            return all;
        }
        self.record("", "option", &text(&all), "", false);
        Vec::new()
    }

    /// Partitions stay; the engine of each of them is the table's.
    pub(super) fn partitions(&mut self, partitions: &[Token]) -> Vec<Token> {
        if partitions.iter().any(|token| token.is("SYSTEM_TIME")) {
            self.problem(
                "It is partitioned by SYSTEM_TIME, which only MariaDB has; exclude the table with exclude_tables."
                    .to_owned(),
            );
        }
        let mut out: Vec<Token> = Vec::with_capacity(partitions.len());
        let mut tokens: std::iter::Peekable<std::slice::Iter<'_, Token>> = partitions.iter().peekable();
        while let Some(token) = tokens.next() {
            let directory = token.is("DATA") || token.is("INDEX");
            if directory && tokens.peek().is_some_and(|next| next.is("DIRECTORY")) {
                tokens.next();
                skip_value(&mut tokens);
                self.record("", "option", &format!("{} DIRECTORY", token.text), "", false);
            } else if token.is("ENGINE") && !self.keeps_engine(tokens.clone()) {
                skip_value(&mut tokens);
            } else {
                out.push(token.clone());
            }
        }
        out
    }
}

impl Rewriter {
    fn keeps_engine<'a>(&self, behind: impl Iterator<Item = &'a Token>) -> bool {
        let mut behind = behind.skip_while(|token| token.is_mark("="));
        self.to.family != Family::OceanBase && behind.next().is_some_and(|value| is_innodb(&value.text))
    }
}

fn skip_value<'a>(tokens: &mut std::iter::Peekable<impl Iterator<Item = &'a Token>>) {
    if tokens.next().is_some_and(|token| token.is_mark("=")) {
        tokens.next();
    }
}

fn is_innodb(engine: &str) -> bool {
    engine.eq_ignore_ascii_case("InnoDB")
}

/// Cuts `ENGINE=InnoDB AUTO_INCREMENT=5 DEFAULT CHARSET=utf8mb4 …` into options.
fn split(tokens: &[Token]) -> Vec<TableOption> {
    let mut options = Vec::new();
    let mut at = 0;
    while let Some(first) = tokens.get(at) {
        let begin = at;
        let mut words = Vec::new();
        // `DEFAULT CHARACTER SET`, `DATA DIRECTORY`, MariaDB's own in backticks.
        while let Some(token) = tokens.get(at) {
            let word = token.name().to_ascii_uppercase();
            let prefix = matches!(word.as_str(), "DEFAULT" | "CHARACTER" | "DATA" | "INDEX");
            if word != "DEFAULT" {
                words.push(word);
            }
            at += 1;
            if !prefix {
                break;
            }
        }
        if first.kind == Kind::Mark {
            // A comma between options.
            let all = tokens.get(begin..at).unwrap_or_default().to_vec();
            options.push(TableOption { words: String::new(), all, value: String::new() });
            continue;
        }
        if tokens.get(at).is_some_and(|token| token.is_mark("=")) {
            at += 1;
        }
        let end = match tokens.get(at) {
            Some(open) if open.is_mark("(") => closing(tokens, at).map_or(tokens.len(), |close| close + 1),
            Some(_) => at + 1,
            None => at,
        };
        let value = tokens.get(at..end).map(text).unwrap_or_default();
        let all = tokens.get(begin..end).unwrap_or_default().to_vec();
        options.push(TableOption { words: words.join(" "), all, value });
        at = end;
    }
    options
}
