//! Places orders: a transaction over four tables, and later a second one that ships the order.

use anyhow::{Context, Result, ensure};

use super::books::{Books, Item, Order};
use super::pulse::Pulse;
use super::session::{Prepared, Session};
use super::{Dice, Role, money};
use crate::demo::shop::{CUSTOMERS, PRODUCTS, WAREHOUSES};

/// A worker that buys.
pub(super) struct Shopper {
    worker: u32,
    number: u64,
    dice: Dice,
    statements: Statements,
    /// The order whose COMMIT is on its way.
    committing: Option<Order>,
    /// Index in the books and id of the order that is being shipped.
    shipping: Option<usize>,
}

struct Statements {
    look: Prepared,
    order: Prepared,
    line: Prepared,
    stock: Prepared,
    pay: Prepared,
    ship: Prepared,
}

impl Role for Shopper {
    const THINK_MAX_MS: u64 = 150;

    async fn start(worker: u32, session: &mut Session) -> Result<Self> {
        let statements = Statements {
            look: session
                .prepare("SELECT CAST(price * 100 AS SIGNED), name FROM products WHERE id = ?")
                .await?,
            order: session
                .prepare(
                    "INSERT INTO orders (reference, customer_id, total, note, placed_at)
                     VALUES (?, ?, ?, ?, NOW(6))",
                )
                .await?,
            line: session
                .prepare(
                    "INSERT INTO order_items (order_id, line, product_id, warehouse_id, quantity, unit_price)
                     VALUES (?, ?, ?, ?, ?, ?)",
                )
                .await?,
            stock: session
                .prepare(
                    "UPDATE stock SET quantity = quantity - ?, sold = sold + ?
                     WHERE warehouse_id = ? AND product_id = ?",
                )
                .await?,
            pay: session
                .prepare(
                    "INSERT INTO payments (order_id, method, amount, token) VALUES (?, ?, ?, UNHEX(MD5(?)))",
                )
                .await?,
            ship: session.prepare("UPDATE orders SET status = 'shipped', note = ? WHERE id = ?").await?,
        };
        // A session that was opened again goes on with numbers of its own.
        let number = std::time::SystemTime::UNIX_EPOCH.elapsed().map_or(0, |now| now.as_micros() as u64);
        let dice = Dice::new(u64::from(worker));
        Ok(Self { worker, number, dice, statements, committing: None, shipping: None })
    }

    async fn round(&mut self, session: &mut Session, books: &mut Books, pulse: &Pulse) -> Result<()> {
        let order = self.choose(session).await?;
        let id = self.write(session, &order).await?;
        self.number += 1;
        if self.dice.below(20) == 0 {
            session.text("ROLLBACK").await?;
            books.rolled_back.insert(order.reference);
            return Ok(());
        }
        self.committing = Some(order.clone());
        session.text("COMMIT").await?;
        self.committing = None;
        pulse.committed();
        books.orders.push(order);
        // Outside of the transaction, where a session may have moved in between.
        session.check_last_insert_id().await?;
        if self.dice.below(3) == 0 {
            self.ship(session, books, id).await?;
            pulse.committed();
        }
        Ok(())
    }

    fn broken(&mut self, books: &mut Books) {
        books.orders_perhaps.extend(self.committing.take());
        if let Some(order) = self.shipping.take().and_then(|index| books.orders.get_mut(index)) {
            order.shipped = None;
        }
    }
}

impl Shopper {
    /// Looks at some products and their prices.
    async fn choose(&mut self, session: &mut Session) -> Result<Order> {
        let mut items = Vec::new();
        for _ in 0..=self.dice.below(3) {
            let product = 1 + self.dice.below(PRODUCTS) as u32;
            let warehouse = 1 + self.dice.below(WAREHOUSES) as u32;
            let rows = session.run(&self.statements.look, (product,)).await?;
            let row = rows.into_iter().next().with_context(|| format!("product {product} is gone"))?;
            let (price_cents, _name): (i64, String) = mysql_async::from_row_opt(row)?;
            items.push(Item { product, warehouse, quantity: 1 + self.dice.below(3) as i64, price_cents });
        }
        // In the order of the key, so that two shoppers never wait for each other crosswise.
        items.sort_by_key(|item| (item.warehouse, item.product));
        items.dedup_by_key(|item| (item.warehouse, item.product));
        Ok(Order { reference: format!("app-{}-{}", self.worker, self.number), items, shipped: Some(false) })
    }

    /// The whole transaction up to its last statement. Returns the order's id.
    async fn write(&mut self, session: &mut Session, order: &Order) -> Result<u64> {
        let customer = 1 + self.dice.below(CUSTOMERS);
        let total = money(order.total_cents());
        let note = (self.dice.below(2) == 0).then(|| format!("für „{}“ 🎁", self.worker));
        session.text("START TRANSACTION").await?;
        session.run(&self.statements.order, (&order.reference, customer, &total, note)).await?;
        session.check_last_insert_id().await?;
        let id = session.last_insert_id();
        for (line, item) in order.items.iter().enumerate() {
            let price = money(item.price_cents);
            let line = (id, line + 1, item.product, item.warehouse, item.quantity, price);
            session.run(&self.statements.line, line).await?;
        }
        for item in &order.items {
            let taken = (item.quantity, item.quantity, item.warehouse, item.product);
            session.run(&self.statements.stock, taken).await?;
        }
        let method = ["card", "transfer", "voucher"].get(self.dice.below(3) as usize).copied();
        session.run(&self.statements.pay, (id, method, total, &order.reference)).await?;
        ensure!(session.last_insert_id() > 0, "the payment got no id");
        Ok(id)
    }

    /// Ships the order just placed.
    async fn ship(&mut self, session: &mut Session, books: &mut Books, id: u64) -> Result<()> {
        let index = books.orders.len().saturating_sub(1);
        self.shipping = Some(index);
        session.run(&self.statements.ship, (format!("shipped by {}", self.worker), id)).await?;
        self.shipping = None;
        if let Some(order) = books.orders.get_mut(index) {
            order.shipped = Some(true);
        }
        Ok(())
    }
}
