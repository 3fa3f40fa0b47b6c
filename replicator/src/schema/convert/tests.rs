#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use config::Family;

use super::*;

const MARIADB: Dialect = Dialect { family: Family::MariaDb, version: (10, 11) };
const MYSQL_9_7: Dialect = Dialect { family: Family::MySql, version: (9, 7) };
const MYSQL_5_6: Dialect = Dialect { family: Family::MySql, version: (5, 6) };
const OCEANBASE: Dialect = Dialect { family: Family::OceanBase, version: (5, 7) };

fn convert(sql: &str, from: Dialect, to: Dialect) -> Converted {
    table_definition(sql, &TableName::new("s", "t"), from, to).unwrap()
}

/// A column or key of a table: what becomes of it, and what is recorded (`kind`, with a `!` where it is lossy).
#[track_caller]
fn part(from: Dialect, to: Dialect, part: &str, expected: &str, recorded: &str) {
    let converted = convert(&format!("CREATE TABLE `t` ({part})"), from, to);
    let sql = converted.sql.trim_start_matches("CREATE TABLE `t` (").trim_end_matches([')', ' ']);
    assert_eq!(sql, expected.trim_end_matches(')'), "{part}");
    let kinds: Vec<String> = converted
        .conversions
        .iter()
        .map(|c| format!("{}{}", c.kind, if c.lossy { "!" } else { "" }))
        .collect();
    assert_eq!(kinds.join(" "), recorded, "{part}");
    assert_eq!(converted.problems, Vec::<String>::new(), "{part}");
}

#[test]
fn columns_between_mysql_and_mariadb() {
    let there = |a, b, c| part(MYSQL_9_7, MARIADB, a, b, c);
    there("`a` int NOT NULL", "`a` int NOT NULL", "");
    there("`a` json DEFAULT NULL", "`a` json DEFAULT NULL", "type");
    there(
        "`a` char(1) COLLATE utf8mb4_0900_as_cs",
        "`a` char(1) COLLATE utf8mb4_uca1400_nopad_as_cs",
        "collation",
    );
    there(
        "`b` int GENERATED ALWAYS AS (concat(`id`,_utf8mb3'x')) STORED NOT NULL COMMENT 'c'",
        "`b` int GENERATED ALWAYS AS (concat(`id`,_utf8mb3'x')) STORED COMMENT 'c'",
        "generated",
    );
    there("`d` int DEFAULT '3' /*!80023 INVISIBLE */", "`d` int DEFAULT '3' INVISIBLE", "");
    there("`e` geometry NOT NULL /*!80003 SRID 4326 */", "`e` geometry NOT NULL", "attribute");
    there("`u` char(36) DEFAULT (uuid())", "`u` char(36) DEFAULT (uuid())", "");
    there("`v` vector(3) DEFAULT NULL", "`v` varbinary(12) DEFAULT NULL", "type");
    there("`c` int /*!50606 COLUMN_FORMAT FIXED */ DEFAULT NULL", "`c` int DEFAULT NULL", "attribute");

    let back = |a, b, c| part(MARIADB, MYSQL_9_7, a, b, c);
    let json = "`c` longtext CHARACTER SET utf8mb4 COLLATE utf8mb4_bin DEFAULT NULL CHECK (json_valid(`c`))";
    back(json, json, "");
    back(
        "`u` uuid DEFAULT uuid()",
        "`u` char(36) CHARACTER SET ascii COLLATE ascii_general_ci DEFAULT (uuid())",
        "type default",
    );
    back("`t` text DEFAULT 'a,b'", "`t` text DEFAULT ('a,b')", "default");
    back("`t` text DEFAULT NULL", "`t` text DEFAULT NULL", "");
    back("`d` date DEFAULT curdate()", "`d` date DEFAULT (curdate())", "default");
    back(
        "`d` datetime(6) DEFAULT current_timestamp(6) ON UPDATE current_timestamp(6)",
        "`d` datetime(6) DEFAULT current_timestamp(6) ON UPDATE current_timestamp(6)",
        "",
    );
    back("`i` bit(3) DEFAULT b'101'", "`i` bit(3) DEFAULT b'101'", "");
    back("`n` int(11) DEFAULT -1", "`n` int(11) DEFAULT -1", "");
    back(
        "`v` varchar(9) COLLATE utf8mb4_uca1400_nopad_ai_ci",
        "`v` varchar(9) COLLATE utf8mb4_0900_ai_ci",
        "collation",
    );
    back(
        "`g` int GENERATED ALWAYS AS (`a` + 1) PERSISTENT",
        "`g` int GENERATED ALWAYS AS (`a` + 1) STORED",
        "",
    );
}

#[test]
fn columns_from_and_to_old_and_other_servers() {
    part(
        MYSQL_5_6,
        MYSQL_9_7,
        "`a` varchar(10) CHARACTER SET utf8 DEFAULT NULL",
        "`a` varchar(10) CHARACTER SET utf8mb3 DEFAULT NULL",
        "",
    );
    // Without a collation 5.6 means another one than 9.7.
    part(
        MYSQL_5_6,
        MYSQL_9_7,
        "`a` char(1) CHARACTER SET utf8mb4 NOT NULL",
        "`a` char(1) CHARACTER SET utf8mb4 COLLATE utf8mb4_general_ci NOT NULL",
        "",
    );
    part(
        MYSQL_5_6,
        MARIADB,
        "`a` char(1) CHARACTER SET utf8 COLLATE utf8_bin",
        "`a` char(1) CHARACTER SET utf8mb3 COLLATE utf8mb3_bin",
        "",
    );
    part(MYSQL_9_7, MYSQL_5_6, "`a` json", "`a` longtext CHARACTER SET utf8mb4 COLLATE utf8mb4_bin", "type");
    part(MARIADB, MYSQL_5_6, "`a` int DEFAULT NULL CHECK (`a` > 3)", "`a` int DEFAULT NULL", "check!");
    part(MYSQL_9_7, MYSQL_5_6, "`a` int DEFAULT (1 + 2)", "`a` int", "default!");
    part(
        MYSQL_5_6,
        OCEANBASE,
        "`a` char(1) CHARACTER SET latin1 COLLATE latin1_bin",
        "`a` char(1) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin",
        "charset collation",
    );
    part(
        MYSQL_9_7,
        OCEANBASE,
        "`a` char(1) CHARACTER SET latin1 NOT NULL",
        "`a` char(1) CHARACTER SET utf8mb4 NOT NULL",
        "charset collation",
    );
    part(MARIADB, OCEANBASE, "`t` text DEFAULT 'a'", "`t` text", "default!");
    part(
        MARIADB,
        OCEANBASE,
        "`t` varchar(9) DEFAULT (_latin1'a')",
        "`t` varchar(9) DEFAULT (_utf8mb4'a')",
        "",
    );
}

#[test]
fn keys() {
    part(
        MYSQL_9_7,
        MARIADB,
        "`a` int, KEY `k` (`a`) /*!80000 INVISIBLE */",
        "`a` int, KEY `k` (`a`) IGNORED",
        "index",
    );
    part(MARIADB, MYSQL_9_7, "`a` int, KEY `k` (`a`) IGNORED", "`a` int, KEY `k` (`a`) INVISIBLE", "index");
    part(
        MYSQL_9_7,
        MYSQL_5_6,
        "`a` int, KEY `k` (`a`) /*!80000 INVISIBLE */",
        "`a` int, KEY `k` (`a`)",
        "index",
    );
    part(
        MYSQL_9_7,
        MARIADB,
        "`a` int, KEY `k` (((`a` + 1))), KEY `l` (`a` DESC)",
        "`a` int, KEY `l` (`a` DESC)",
        "index",
    );
    part(
        MYSQL_9_7,
        MARIADB,
        "`a` int, FULLTEXT KEY `f` (`a`) /*!50100 WITH PARSER `ngram` */",
        "`a` int, FULLTEXT KEY `f` (`a`)",
        "attribute",
    );
    part(
        MYSQL_9_7,
        MARIADB,
        "`a` int, CONSTRAINT `c` CHECK ((`a` > 0)) /*!80016 NOT ENFORCED */",
        "`a` int",
        "check",
    );
    part(
        MYSQL_9_7,
        MARIADB,
        "`a` int, CONSTRAINT `c` CHECK ((`a` > 0))",
        "`a` int, CONSTRAINT `c` CHECK ((`a` > 0))",
        "",
    );
    part(MARIADB, MYSQL_5_6, "`a` int, CONSTRAINT `c` CHECK (`a` > 0)", "`a` int", "check!");
    let foreign = "`a` int, CONSTRAINT `f` FOREIGN KEY (`a`) REFERENCES `p` (`id`) ON DELETE CASCADE";
    part(MYSQL_5_6, OCEANBASE, foreign, foreign, "");
    let unique = convert("CREATE TABLE t (`a` int, UNIQUE KEY `k` ((`a` + 1)))", MYSQL_9_7, MARIADB);
    assert!(unique.problems[0].contains("over an expression"), "{unique:?}");
}

#[test]
fn options_and_partitions() {
    let check = |from, to, options: &str, expected: &str, recorded: &str| {
        let converted = convert(&format!("CREATE TABLE `t` (`a` int) {options}"), from, to);
        assert_eq!(
            converted.sql.trim_start_matches("CREATE TABLE `t` (`a` int)").trim(),
            expected,
            "{options}"
        );
        let kinds: Vec<&str> = converted.conversions.iter().map(|c| c.kind.as_str()).collect();
        assert_eq!(kinds.join(" "), recorded, "{options}");
    };
    let default = "ENGINE=InnoDB AUTO_INCREMENT=5 DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_general_ci";
    check(MARIADB, MYSQL_9_7, default, default, "");
    check(MARIADB, OCEANBASE, default, default, "");
    check(
        MYSQL_9_7,
        MARIADB,
        "ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_0900_ai_ci",
        "ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_uca1400_nopad_ai_ci",
        "collation",
    );
    check(
        MYSQL_5_6,
        MYSQL_9_7,
        "ENGINE=MyISAM DEFAULT CHARSET=utf8mb4 ROW_FORMAT=FIXED",
        "ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE utf8mb4_general_ci",
        "engine option",
    );
    check(
        MYSQL_5_6,
        OCEANBASE,
        "ENGINE=InnoDB DEFAULT CHARSET=latin1 COMMENT='it''s'",
        "ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COMMENT='it''s'",
        "charset collation",
    );
    check(
        MARIADB,
        MYSQL_9_7,
        "ENGINE=Aria DEFAULT CHARSET=latin1 COLLATE=latin1_swedish_ci PAGE_CHECKSUM=1 `page_compressed`='1'",
        "ENGINE=InnoDB DEFAULT CHARSET=latin1 COLLATE=latin1_swedish_ci",
        "engine option option",
    );
    check(
        MYSQL_9_7,
        MARIADB,
        "ENGINE=InnoDB\n/*!50100 PARTITION BY RANGE (`id`)\n(PARTITION p0 VALUES LESS THAN (10) COMMENT = 'x' ENGINE = InnoDB) */",
        "ENGINE=InnoDB PARTITION BY RANGE (`id`) (PARTITION p0 VALUES LESS THAN (10) COMMENT = 'x' ENGINE = InnoDB)",
        "",
    );
    check(
        MARIADB,
        OCEANBASE,
        "ENGINE=InnoDB PARTITION BY HASH (`id`) (PARTITION `p0` ENGINE = InnoDB)",
        "ENGINE=InnoDB PARTITION BY HASH (`id`) (PARTITION `p0`)",
        "",
    );
}

#[test]
fn what_needs_no_change_stays_as_it_is() {
    let sql = "CREATE TABLE `t` (\n  `a` int NOT NULL\n) ENGINE=InnoDB DEFAULT CHARSET=latin1\n/*!50100 PARTITION BY KEY (a) */";
    assert_eq!(convert(sql, MYSQL_5_6, MYSQL_5_6).sql, sql);
    let myisam = convert("CREATE TABLE t (a int) ENGINE=MyISAM", MARIADB, MARIADB);
    assert_eq!((myisam.sql.as_str(), myisam.conversions.len()), ("CREATE TABLE t (a int) ENGINE=InnoDB", 1));
}

#[test]
fn alterations() {
    let check = |from, to, sql: &str, expected: &str| assert_eq!(convert(sql, from, to).sql, expected);
    check(
        MYSQL_9_7,
        MARIADB,
        "ALTER TABLE s.t ADD COLUMN v vector(2) AFTER a, DROP COLUMN b",
        "ALTER TABLE s.t ADD COLUMN v varbinary(8) AFTER a, DROP COLUMN b",
    );
    check(
        MARIADB,
        MYSQL_9_7,
        "ALTER TABLE `s`.`t` CHANGE COLUMN a b uuid, ADD (c text DEFAULT 'x', KEY (c)), ENGINE=Aria",
        "ALTER TABLE `s`.`t` CHANGE COLUMN a b char(36) CHARACTER SET ascii COLLATE ascii_general_ci, ADD (c text DEFAULT ('x'), KEY (c)), ENGINE=InnoDB",
    );
    check(
        MARIADB,
        MYSQL_9_7,
        "ALTER TABLE t MODIFY a int, ADD PARTITION (PARTITION p1 VALUES IN (1))",
        "ALTER TABLE t MODIFY a int, ADD PARTITION (PARTITION p1 VALUES IN (1))",
    );
    check(
        MYSQL_9_7,
        MARIADB,
        "ALTER TABLE t ADD KEY k ((a + 1)), ADD INDEX l (a)",
        "ALTER TABLE t ADD INDEX l (a)",
    );
}

#[test]
fn what_cannot_be_read_is_an_error() {
    let table = TableName::new("s", "t");
    for sql in ["", "CREATE TABLE t (a int", "CREATE TABLE t (a int DEFAULT 'x)", "DROP TABLE t"] {
        assert!(table_definition(sql, &table, MYSQL_9_7, MARIADB).is_err(), "{sql}");
    }
}
