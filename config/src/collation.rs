//! Character sets and collations as the other server calls them, or its nearest.

use crate::dialect::{Dialect, Family};

/// Languages as MySQL 8 and as MariaDB (and MySQL before) write them in the names of collations.
const LANGUAGES: &[(&str, &str)] = &[
    ("is", "icelandic"),
    ("lv", "latvian"),
    ("ro", "romanian"),
    ("sl", "slovenian"),
    ("pl", "polish"),
    ("et", "estonian"),
    ("es", "spanish"),
    ("sv", "swedish"),
    ("tr", "turkish"),
    ("cs", "czech"),
    ("da", "danish"),
    ("lt", "lithuanian"),
    ("sk", "slovak"),
    ("es_trad", "spanish2"),
    ("la", "roman"),
    ("eo", "esperanto"),
    ("hu", "hungarian"),
    ("de_pb", "german2"),
    ("vi", "vietnamese"),
    ("hr", "croatian"),
];

/// The character set's name on `to`; `None` where it has none that could stand in.
#[must_use]
pub fn charset(name: &str, to: Dialect) -> Option<String> {
    let name = if name == "utf8" { "utf8mb3" } else { name };
    let there = match (to.family, name) {
        // Every text of utf8mb3 is one of utf8mb4.
        (Family::OceanBase, "utf8mb3" | "utf8mb4") => "utf8mb4",
        (Family::OceanBase, "binary") => "binary",
        (Family::OceanBase, _) => return None,
        (Family::MariaDb, "gb18030") => return None,
        (Family::MySql, "gb18030") if to.version < (5, 7) => return None,
        (Family::MySql, "utf8mb3") if to.version < (8, 0) => "utf8",
        (Family::MariaDb, "utf8mb3") if to.version < (10, 6) => "utf8",
        _ => name,
    };
    Some(there.to_owned())
}

/// The collation on `to` that is the same, or compares most like it. `None` where its character set isn't
/// there.
#[must_use]
pub fn collation(name: &str, to: Dialect) -> Option<String> {
    let (of, rest) = name.split_once('_').unwrap_or((name, ""));
    let there = charset(of, to)?;
    if rest.is_empty() {
        return Some(there);
    }
    let rest = match to.family {
        Family::OceanBase if rest.ends_with("bin") || rest.ends_with("_cs") => "bin".to_owned(),
        Family::OceanBase => "general_ci".to_owned(),
        Family::MariaDb => on_mariadb(rest, to),
        Family::MySql => on_mysql(of, rest, to),
    };
    Some(format!("{there}_{rest}"))
}

fn on_mariadb(rest: &str, to: Dialect) -> String {
    let Some((language, strength)) = of_0900(rest) else { return rest.to_owned() };
    if strength == "bin" {
        return "nopad_bin".to_owned();
    }
    if to.version < (10, 10) {
        return if strength.contains("_cs") { "nopad_bin" } else { "unicode_520_nopad_ci" }.to_owned();
    }
    // Only Japanese has as_cs_ks, and MariaDB has no Japanese.
    let strength = strength.trim_end_matches("_ks");
    match LANGUAGES.iter().find(|(code, _)| *code == language) {
        Some((_, language)) => format!("uca1400_{language}_nopad_{strength}"),
        None => format!("uca1400_nopad_{strength}"),
    }
}

/// `de_pb_0900_as_cs` is `de_pb` and `as_cs`.
fn of_0900(rest: &str) -> Option<(&str, &str)> {
    match rest.strip_prefix("0900_") {
        Some(strength) => Some(("", strength)),
        None => rest.split_once("_0900_"),
    }
}

fn on_mysql(charset: &str, rest: &str, to: Dialect) -> String {
    let knows_0900 = charset == "utf8mb4" && to.version >= (8, 0);
    if let Some((language, strength)) = of_0900(rest) {
        return if knows_0900 { rest.to_owned() } else { before_0900(named(language), strength) };
    }
    if let Some(uca1400) = rest.strip_prefix("uca1400_") {
        return from_uca1400(uca1400, knows_0900);
    }
    match rest {
        "nopad_bin" if knows_0900 => "0900_bin".to_owned(),
        "unicode_520_nopad_ci" if knows_0900 => "0900_ai_ci".to_owned(),
        "croatian_mysql561_ci" => "croatian_ci".to_owned(),
        "myanmar_ci" | "thai_520_w2" => "unicode_520_ci".to_owned(),
        "general1400_as_ci" => "general_ci".to_owned(),
        // The order stays; trailing spaces don't count there.
        _ => rest.replace("nopad_", ""),
    }
}

fn named(code: &str) -> &str {
    LANGUAGES.iter().find(|(other, _)| *other == code).map_or("", |(_, name)| name)
}

fn before_0900(language: &str, strength: &str) -> String {
    match (strength, language) {
        ("bin", _) => "bin".to_owned(),
        (strength, _) if strength.contains("_cs") => "bin".to_owned(),
        (_, "") => "unicode_520_ci".to_owned(),
        (_, language) => format!("{language}_ci"),
    }
}

/// `german2_nopad_as_cs`: a language or none, padding, strength.
fn from_uca1400(rest: &str, knows_0900: bool) -> String {
    let at = ["ai_ci", "ai_cs", "as_ci", "as_cs"].iter().find_map(|strength| rest.rfind(strength));
    let (head, strength) = rest.split_at(at.unwrap_or(rest.len()));
    let head = head.trim_end_matches('_');
    let no_pad = head.ends_with("nopad");
    let language = head.trim_end_matches("nopad").trim_end_matches('_');
    // Those of MySQL 8 don't pad. Where trailing spaces don't count, an older one is the nearer.
    if !knows_0900 || (!no_pad && strength == "ai_ci") {
        return before_0900(language, strength);
    }
    let code = LANGUAGES.iter().find(|(_, name)| *name == language).map(|(code, _)| *code);
    match (code, strength) {
        (Some(code), "ai_ci") => format!("{code}_0900_ai_ci"),
        (Some(code), _) => format!("{code}_0900_as_cs"),
        (None, "ai_cs") => "0900_as_cs".to_owned(),
        (None, strength) => format!("0900_{strength}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dialect::tests::{MARIADB, MARIADB_10_5, MYSQL_5_6, MYSQL_9_7, OCEANBASE};

    #[test]
    fn collations() {
        // Columns: the name, then on MariaDB 10.11, MySQL 9.7, MySQL 5.6, OceanBase.
        for row in [
            "utf8mb4_general_ci utf8mb4_general_ci utf8mb4_general_ci utf8mb4_general_ci utf8mb4_general_ci",
            "utf8mb4_bin utf8mb4_bin utf8mb4_bin utf8mb4_bin utf8mb4_bin",
            "binary binary binary binary binary",
            "latin1_swedish_ci latin1_swedish_ci latin1_swedish_ci latin1_swedish_ci -",
            "latin1_swedish_nopad_ci latin1_swedish_nopad_ci latin1_swedish_ci latin1_swedish_ci -",
            "utf8_general_ci utf8mb3_general_ci utf8mb3_general_ci utf8_general_ci utf8mb4_general_ci",
            "utf8mb3_unicode_ci utf8mb3_unicode_ci utf8mb3_unicode_ci utf8_unicode_ci utf8mb4_general_ci",
            "utf8mb4_0900_ai_ci utf8mb4_uca1400_nopad_ai_ci utf8mb4_0900_ai_ci utf8mb4_unicode_520_ci utf8mb4_general_ci",
            "utf8mb4_0900_as_ci utf8mb4_uca1400_nopad_as_ci utf8mb4_0900_as_ci utf8mb4_unicode_520_ci utf8mb4_general_ci",
            "utf8mb4_0900_as_cs utf8mb4_uca1400_nopad_as_cs utf8mb4_0900_as_cs utf8mb4_bin utf8mb4_bin",
            "utf8mb4_0900_bin utf8mb4_nopad_bin utf8mb4_0900_bin utf8mb4_bin utf8mb4_bin",
            "utf8mb4_nopad_bin utf8mb4_nopad_bin utf8mb4_0900_bin utf8mb4_bin utf8mb4_bin",
            "utf8mb4_de_pb_0900_as_cs utf8mb4_uca1400_german2_nopad_as_cs utf8mb4_de_pb_0900_as_cs utf8mb4_bin utf8mb4_bin",
            "utf8mb4_sv_0900_ai_ci utf8mb4_uca1400_swedish_nopad_ai_ci utf8mb4_sv_0900_ai_ci utf8mb4_swedish_ci utf8mb4_general_ci",
            "utf8mb4_ja_0900_as_cs_ks utf8mb4_uca1400_nopad_as_cs utf8mb4_ja_0900_as_cs_ks utf8mb4_bin utf8mb4_general_ci",
            "utf8mb4_uca1400_ai_ci utf8mb4_uca1400_ai_ci utf8mb4_unicode_520_ci utf8mb4_unicode_520_ci utf8mb4_general_ci",
            "utf8mb4_uca1400_nopad_ai_ci utf8mb4_uca1400_nopad_ai_ci utf8mb4_0900_ai_ci utf8mb4_unicode_520_ci utf8mb4_general_ci",
            "utf8mb4_uca1400_swedish_nopad_ai_ci utf8mb4_uca1400_swedish_nopad_ai_ci utf8mb4_sv_0900_ai_ci utf8mb4_swedish_ci utf8mb4_general_ci",
            "utf8mb3_uca1400_as_cs utf8mb3_uca1400_as_cs utf8mb3_bin utf8_bin utf8mb4_bin",
            "utf8mb4_croatian_mysql561_ci utf8mb4_croatian_mysql561_ci utf8mb4_croatian_ci utf8mb4_croatian_ci utf8mb4_general_ci",
            "utf8mb4_unicode_520_nopad_ci utf8mb4_unicode_520_nopad_ci utf8mb4_0900_ai_ci utf8mb4_unicode_520_ci utf8mb4_general_ci",
            "gb18030_chinese_ci - gb18030_chinese_ci - -",
        ] {
            let names: Vec<&str> = row.split(' ').collect();
            for (to, there) in [MARIADB, MYSQL_9_7, MYSQL_5_6, OCEANBASE].into_iter().zip(&names[1..]) {
                let mapped = collation(names[0], to);
                assert_eq!(mapped.as_deref().unwrap_or("-"), *there, "{} on {to:?}", names[0]);
            }
        }
        assert_eq!(
            collation("utf8mb4_0900_ai_ci", MARIADB_10_5).as_deref(),
            Some("utf8mb4_unicode_520_nopad_ci")
        );
    }

    #[test]
    fn there_and_back_is_the_same() {
        for name in ["utf8mb4_0900_ai_ci", "utf8mb4_0900_as_cs", "utf8mb4_0900_bin", "utf8mb4_vi_0900_as_cs"]
        {
            let there = collation(name, MARIADB).unwrap_or_default();
            assert_eq!(collation(&there, MYSQL_9_7).as_deref(), Some(name), "{there}");
        }
    }

    #[test]
    fn charsets() {
        assert_eq!(charset("utf8", MYSQL_9_7).as_deref(), Some("utf8mb3"));
        assert_eq!(charset("utf8mb3", MYSQL_5_6).as_deref(), Some("utf8"));
        assert_eq!(charset("utf8", OCEANBASE).as_deref(), Some("utf8mb4"));
        assert_eq!(charset("latin1", OCEANBASE), None);
    }
}
