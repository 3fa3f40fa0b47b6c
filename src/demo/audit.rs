//! The application's books against the new server, which is asked directly, past the proxy.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;
use mysql_async::Conn;
use mysql_async::prelude::Queryable;

use super::application::books::{Books, Order, Tally};
use super::application::reporter_day;
use super::scratch::Scratch;
use super::shop::{BUSY_TABLES, STILL_TABLES, STOCK, count};

/// Findings kept in words; all of them are counted.
const FINDINGS_KEPT: usize = 10;

/// What the comparison found.
#[derive(Debug, Default)]
pub(crate) struct Audit {
    /// Acknowledged writes that aren't on the new server.
    pub(crate) lost: u64,
    /// Writes that are there more often than they were made, or were rolled back and are there.
    pub(crate) duplicated: u64,
    /// Anything else that isn't as the books say.
    pub(crate) wrong: u64,
    /// Entries of the books that were compared.
    pub(crate) entries: u64,
    /// Tables counted or compared.
    pub(crate) tables: u64,
    /// Rows counted in them.
    pub(crate) rows: u64,
    /// The first findings, in words.
    pub(crate) findings: Vec<String>,
}

impl Audit {
    fn lost(&mut self, how_much: i64, what: String) {
        self.lost += how_much.unsigned_abs();
        self.note(format!("lost: {what}"));
    }

    fn duplicated(&mut self, how_much: i64, what: String) {
        self.duplicated += how_much.unsigned_abs();
        self.note(format!("duplicated: {what}"));
    }

    fn wrong(&mut self, what: String) {
        self.wrong += 1;
        self.note(format!("wrong: {what}"));
    }

    fn note(&mut self, text: String) {
        if self.findings.len() < FINDINGS_KEPT {
            self.findings.push(text);
        }
    }

    /// True where the books and the server agree in everything.
    pub(crate) fn clean(&self) -> bool {
        self.lost == 0 && self.duplicated == 0 && self.wrong == 0
    }

    /// A sum that has to lie between what is sure and what is possible.
    fn sum(&mut self, what: &str, seen: i64, tally: Tally) {
        self.entries += 1;
        if seen < tally.sure {
            self.lost(tally.sure - seen, format!("{what} is {seen}, the books say {}", tally.sure));
        } else if seen > tally.sure + tally.perhaps {
            self.duplicated(seen - tally.sure, format!("{what} is {seen}, the books say {}", tally.sure));
        }
    }
}

/// Rows of each table before the application's first write, counted on the source.
pub(crate) async fn count_all(server: &Scratch) -> Result<BTreeMap<&'static str, u64>> {
    let mut conn = Conn::new(server.root()).await?;
    let mut counts = BTreeMap::new();
    for table in STILL_TABLES.iter().chain(BUSY_TABLES.iter()) {
        counts.insert(*table, count(&mut conn, table).await?);
    }
    conn.disconnect().await?;
    Ok(counts)
}

/// Compares everything.
pub(crate) async fn compare(
    books: &Books,
    before: &BTreeMap<&'static str, u64>,
    source: &Scratch,
    target: &Scratch,
) -> Result<Audit> {
    let mut audit = Audit::default();
    let mut conn = Conn::new(target.root()).await?;
    let standing = orders(&mut audit, books, &mut conn).await?;
    stock(&mut audit, &standing, &mut conn).await?;
    sums(
        &mut audit,
        "points of customer",
        &books.points,
        &mut conn,
        "SELECT id, points FROM shop.customers WHERE points <> 0",
    )
    .await?;
    let day = reporter_day();
    let sql = format!("SELECT product_id, views FROM shop_stats.page_views WHERE day = '{day}'");
    sums(&mut audit, "page views of product", &books.views, &mut conn, &sql).await?;
    let reviews = reviews(&mut audit, books, &mut conn).await?;
    let lines: usize = standing.iter().map(|order| order.items.len()).sum();
    let views: Option<u64> =
        conn.query_first(format!("SELECT COUNT(*) FROM shop_stats.page_views WHERE day = '{day}'")).await?;
    let added = BTreeMap::from([
        ("shop.orders", standing.len() as u64),
        ("shop.order_items", lines as u64),
        ("shop.payments", standing.len() as u64),
        ("shop.reviews", reviews),
        // Sums above have compared each of these rows; here they only have to be no part of the old ones.
        ("shop_stats.page_views", views.unwrap_or_default()),
    ]);
    for (table, rows) in before {
        let wanted = rows + added.get(table).copied().unwrap_or_default();
        let seen = count(&mut conn, table).await?;
        audit.tables += 1;
        audit.rows += seen;
        if seen < wanted {
            audit.lost((wanted - seen) as i64, format!("{table} has {seen} rows instead of {wanted}"));
        } else if seen > wanted {
            audit.duplicated((seen - wanted) as i64, format!("{table} has {seen} rows instead of {wanted}"));
        }
    }
    still_tables(&mut audit, source, &mut conn).await?;
    conn.disconnect().await?;
    Ok(audit)
}

/// Each order of the books is there once, with its lines, payment and status; none that was rolled back is.
/// Returns the orders that stand.
async fn orders(audit: &mut Audit, books: &Books, conn: &mut Conn) -> Result<Vec<Order>> {
    type Seen = (String, u64, String, i64, u64, i64, i64);
    let seen: Vec<Seen> = conn
        .query(
            "SELECT o.reference, o.id, o.status, CAST(o.total * 100 AS SIGNED),
                (SELECT COUNT(*) FROM shop.order_items i WHERE i.order_id = o.id),
                (SELECT CAST(COALESCE(SUM(i.quantity * i.unit_price), 0) * 100 AS SIGNED)
                 FROM shop.order_items i WHERE i.order_id = o.id),
                (SELECT CAST(COALESCE(SUM(p.amount), 0) * 100 AS SIGNED)
                 FROM shop.payments p WHERE p.order_id = o.id)
             FROM shop.orders o WHERE o.reference LIKE 'app-%'",
        )
        .await?;
    let mut times: BTreeMap<String, Vec<Seen>> = BTreeMap::new();
    for row in seen {
        times.entry(row.0.clone()).or_default().push(row);
    }
    let mut standing = Vec::new();
    let perhaps = books.orders_perhaps.iter().map(|order| (order, false));
    for (order, sure) in books.orders.iter().map(|order| (order, true)).chain(perhaps) {
        audit.entries += 1;
        let Some(found) = times.remove(&order.reference) else {
            if sure {
                audit.lost(1, format!("order {}", order.reference));
            }
            continue;
        };
        standing.push(order.clone());
        if found.len() > 1 {
            audit.duplicated(found.len() as i64 - 1, format!("order {}", order.reference));
        }
        for (_, _, status, total, lines, sum, paid) in found {
            let wanted = order.total_cents();
            let as_booked =
                (total, sum, paid) == (wanted, wanted, wanted) && lines == order.items.len() as u64;
            let shipped = order.shipped.is_none_or(|shipped| shipped == (status == "shipped"));
            if !as_booked || !shipped {
                audit.wrong(format!("order {} isn't as it was written", order.reference));
            }
        }
    }
    for reference in times.keys() {
        audit.entries += 1;
        let why = if books.rolled_back.contains(reference) { "rolled back" } else { "in no book" };
        audit.duplicated(1, format!("order {reference} was {why} and is there"));
    }
    Ok(standing)
}

/// What was sold is what the standing orders hold.
async fn stock(audit: &mut Audit, standing: &[Order], conn: &mut Conn) -> Result<()> {
    let mut sold: BTreeMap<(u32, u32), i64> = BTreeMap::new();
    for item in standing.iter().flat_map(|order| &order.items) {
        *sold.entry((item.warehouse, item.product)).or_default() += item.quantity;
    }
    let rows: Vec<(u32, u32, i64, i64)> =
        conn.query("SELECT warehouse_id, product_id, sold, quantity FROM shop.stock").await?;
    for (warehouse, product, seen, quantity) in rows {
        let sure = sold.remove(&(warehouse, product)).unwrap_or_default();
        audit.sum(
            &format!("sold of product {product} in hall {warehouse}"),
            seen,
            Tally { sure, perhaps: 0 },
        );
        if quantity + seen != STOCK {
            audit.wrong(format!("stock of product {product} in hall {warehouse} doesn't add up"));
        }
    }
    for ((warehouse, product), quantity) in sold {
        audit.lost(quantity, format!("the stock row of product {product} in hall {warehouse}"));
    }
    Ok(())
}

/// Each sum of the books is on the server, and nothing else is.
async fn sums(
    audit: &mut Audit,
    what: &str,
    tallies: &BTreeMap<u32, Tally>,
    conn: &mut Conn,
    sql: &str,
) -> Result<()> {
    let mut seen: BTreeMap<u32, i64> = conn.query::<(u32, i64), _>(sql).await?.into_iter().collect();
    for (key, tally) in tallies {
        audit.sum(&format!("{what} {key}"), seen.remove(key).unwrap_or_default(), *tally);
    }
    for (key, value) in seen {
        audit.duplicated(value, format!("{what} {key} is {value}, in no book"));
    }
    Ok(())
}

/// The application's reviews. Returns how many stand.
async fn reviews(audit: &mut Audit, books: &Books, conn: &mut Conn) -> Result<u64> {
    let seen: BTreeSet<(u32, u32)> = conn
        .query::<(u32, u32), _>("SELECT product_id, customer_id FROM shop.reviews WHERE customer_id >= 50000")
        .await?
        .into_iter()
        .collect();
    audit.entries += books.reviews.len() as u64;
    for (product, customer) in books.reviews.difference(&seen) {
        if !books.reviews_perhaps.contains(&(*product, *customer)) {
            audit.lost(1, format!("the review of product {product} by customer {customer}"));
        }
    }
    for (product, customer) in seen.difference(&books.reviews) {
        if !books.reviews_perhaps.contains(&(*product, *customer)) {
            audit.duplicated(1, format!("the review of product {product} by customer {customer} is back"));
        }
    }
    Ok(seen.len() as u64)
}

/// Tables that nobody wrote are equal on both servers, byte for byte, as the servers' own checksum sees it.
async fn still_tables(audit: &mut Audit, source: &Scratch, target: &mut Conn) -> Result<()> {
    let mut source = Conn::new(source.root()).await?;
    for table in STILL_TABLES {
        let sql = format!("CHECKSUM TABLE {table}");
        let old: Option<(String, Option<u64>)> = source.query_first(&sql).await?;
        let new: Option<(String, Option<u64>)> = target.query_first(&sql).await?;
        if old != new || !matches!(old, Some((_, Some(_)))) {
            audit.wrong(format!("{table} isn't equal on both servers"));
        }
    }
    source.disconnect().await?;
    Ok(())
}
