//! Reads over several tables from a schema of its own, and counts page views.

use anyhow::{Context, Result};

use super::books::Books;
use super::pulse::Pulse;
use super::session::{Prepared, Session};
use super::{Dice, Role, SESSIONS};

/// The day on which the application's views are counted, as below; the shop's old ones are on earlier days.
pub(crate) const VIEWS_DAY: &str = "2026-01-01";

/// A worker that reads.
pub(super) struct Reporter {
    worker: u32,
    dice: Dice,
    view: Prepared,
    sales: Prepared,
    pending: Option<u32>,
}

impl Role for Reporter {
    const THINK_MAX_MS: u64 = 200;

    async fn start(worker: u32, session: &mut Session) -> Result<Self> {
        // No schema is named: it is the session's own, and has to be that on the other server, too.
        let view = session
            .prepare(
                "INSERT INTO page_views (day, product_id, views) VALUES ('2026-01-01', ?, 1)
                 ON DUPLICATE KEY UPDATE views = views + 1",
            )
            .await?;
        let sales = session
            .prepare(
                "SELECT p.name, SUM(i.quantity), SUM(i.quantity * i.unit_price)
                 FROM shop.products p JOIN shop.order_items i ON i.product_id = p.id
                 WHERE p.id BETWEEN ? AND ? GROUP BY p.id ORDER BY p.id",
            )
            .await?;
        Ok(Self { worker, dice: Dice::new(u64::from(worker)), view, sales, pending: None })
    }

    async fn round(&mut self, session: &mut Session, books: &mut Books, pulse: &Pulse) -> Result<()> {
        let first = 1 + self.dice.below(9_900);
        let rows = session.run(&self.sales, (first, first + 20)).await?;
        rows.first().with_context(|| format!("nothing was ever sold of products {first} and following"))?;
        // Each reporter has products of its own, so that no two wait for one row's gap.
        let product = 10 * self.dice.below(90) as u32 * SESSIONS + self.worker;
        self.pending = Some(product);
        session.run(&self.view, (product,)).await?;
        self.pending = None;
        books.views.entry(product).or_default().sure += 1;
        pulse.committed();
        Ok(())
    }

    fn broken(&mut self, books: &mut Books) {
        if let Some(product) = self.pending.take() {
            books.views.entry(product).or_default().perhaps += 1;
        }
    }
}
