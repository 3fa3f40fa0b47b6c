//! Tests of `barrier.rs`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
use super::*;
use crate::schema::history::Definition;
use crate::schema::table::TableSchema;

fn name(table: &str) -> TableName {
    TableName::new("shop", table)
}

fn definition(table: &str, begin: Begin) -> Definition {
    let table = TableSchema {
        name: name(table),
        columns: Vec::new(),
        unique_keys: Vec::new(),
        foreign_keys: Vec::new(),
        has_cascading_children: false,
        rows_estimate: 0,
        create_sql: String::new(),
        keyless: false,
        target: None,
        stored_as: None,
        filter: None,
        left_out: Default::default(),
    };
    Definition { table, begin }
}

/// The copy ended at 500; `own` was copied between 700 and 800; `made` came by the stream.
fn plan(offset: u64, sql: &str) -> Plan {
    let own = Begin::OwnCopy { from: "b.000001:700".to_owned(), to: "b.000001:800".to_owned() };
    let definitions = Definitions {
        leg: Leg::FIRST,
        seq: 0,
        ignored: BTreeSet::new(),
        pending: None,
        column_rules: Vec::new(),
        tables: vec![
            definition("a", Begin::FirstCopy),
            definition("own", own),
            definition("made", Begin::Stream),
        ],
    };
    let at = |offset: u64| BinlogPosition { file: "b.000001".to_owned(), offset };
    let view = View {
        definitions: &definitions,
        selection: &Selection::of_schemas(&["shop"]),
        written: &SideNames::default(),
        copied_at: &at(500),
        at: &at(offset),
    };
    view.plan(&Change::parse(sql.as_bytes(), "shop", false), true).unwrap()
}

#[test]
fn a_statement_is_run_where_the_rows_are_those_of_its_position() {
    let run = || Plan::Run { sql: None };
    let anew = |names: &[&str]| Plan::CopyAnew(names.iter().map(|n| name(n)).collect());
    let check =
        |offset: u64, sql: &str, expected: Plan| assert_eq!(plan(offset, sql), expected, "{offset} {sql}");
    check(500, "ALTER TABLE a ADD c INT", anew(&["a"]));
    check(501, "ALTER TABLE a ADD c INT", run());
    check(100, "ALTER TABLE made ADD c INT", run());
    check(700, "ALTER TABLE own ADD c INT", Plan::Nothing);
    check(701, "ALTER TABLE own ADD c INT", anew(&["own"]));
    check(801, "ALTER TABLE own ADD c INT", run());
    check(100, "TRUNCATE a", run());
    check(700, "TRUNCATE own", Plan::Nothing);
    check(100, "CREATE TABLE new (id INT)", run());
    check(900, "CREATE TABLE new LIKE a", run());
    check(600, "CREATE TABLE new LIKE own", anew(&["new"]));
    check(900, "CREATE TABLE new LIKE other.t", anew(&["new"]));
    check(600, "CREATE TABLE own (id INT)", Plan::Nothing);
    check(600, "DROP TABLE a, own", Plan::Run { sql: Some("DROP TABLE IF EXISTS `shop`.`a`".to_owned()) });
    check(600, "DROP TABLE own", Plan::Nothing);
    check(600, "DROP TABLE other.a", Plan::Nothing);
    check(900, "CREATE TRIGGER x BEFORE INSERT ON a FOR EACH ROW SET @a = 1", Plan::Nothing);
    check(900, "CREATE SEQUENCE s", Plan::ByHand("it isn't understood"));
}

#[test]
fn names_that_are_swapped_are_one_matter() {
    let anew = |names: &[&str]| Plan::CopyAnew(names.iter().map(|n| name(n)).collect());
    assert_eq!(plan(900, "RENAME TABLE a TO a_del, made TO a"), Plan::Run { sql: None });
    assert_eq!(plan(400, "RENAME TABLE a TO a_del, made TO a"), anew(&["a", "a_del", "made"]));
    // `own` has what the swap brought; the other two haven't.
    assert_eq!(plan(600, "RENAME TABLE own TO own_del, made TO own"), anew(&["made", "own_del"]));
    assert_eq!(plan(900, "RENAME TABLE a TO a_del, not_ours TO a"), anew(&["a", "a_del", "not_ours"]));
    assert_eq!(plan(900, "RENAME TABLE a TO archive.a"), anew(&["a"]));
    assert_eq!(plan(900, "RENAME TABLE a TO x, made TO a, x TO made"), Plan::Run { sql: None });
    assert_eq!(plan(900, "ALTER TABLE a EXCHANGE PARTITION p WITH TABLE made"), anew(&["a", "made"]));
}

#[test]
fn origins_are_followed_over_every_step() {
    let change = Change::parse(b"RENAME TABLE a TO x, b TO a, x TO b", "shop", false);
    assert_eq!(came_from(&change), BTreeMap::from([(name("a"), name("b")), (name("b"), name("a"))]));
}
