//! Looks after customers: adds points, writes reviews and removes old ones. Each statement commits by itself.

use std::collections::VecDeque;

use anyhow::{Result, ensure};

use super::books::Books;
use super::pulse::Pulse;
use super::session::{Prepared, Session};
use super::{Dice, Role};
use crate::demo::shop::{CUSTOMERS, PRODUCTS};

/// Reviews of a clerk's own that stand at a time.
const REVIEWS_KEPT: usize = 10;

/// A worker that changes rows in place, and deletes some.
pub(super) struct Clerk {
    worker: u32,
    dice: Dice,
    add: Prepared,
    read: Prepared,
    review: Prepared,
    remove: Prepared,
    own: VecDeque<(u32, u32)>,
    /// What is being asked for.
    pending: Option<Pending>,
}

#[derive(Clone, Copy)]
enum Pending {
    Points(u32, i64),
    Review((u32, u32)),
}

impl Role for Clerk {
    const THINK_MAX_MS: u64 = 120;

    async fn start(worker: u32, session: &mut Session) -> Result<Self> {
        let add = session.prepare("UPDATE customers SET points = points + ? WHERE id = ?").await?;
        let read = session.prepare("SELECT points, email, full_name FROM customers WHERE id = ?").await?;
        let review = session
            .prepare(
                "INSERT INTO reviews (product_id, customer_id, stars, body, created_at)
                 VALUES (?, ?, ?, ?, NOW())",
            )
            .await?;
        let remove = session.prepare("DELETE FROM reviews WHERE product_id = ? AND customer_id = ?").await?;
        let own = VecDeque::new();
        let seed = std::time::SystemTime::UNIX_EPOCH.elapsed().map_or(1, |now| now.as_micros() as u64);
        Ok(Self { worker, dice: Dice::new(seed), add, read, review, remove, own, pending: None })
    }

    async fn round(&mut self, session: &mut Session, books: &mut Books, pulse: &Pulse) -> Result<()> {
        let customer = 1 + self.dice.below(CUSTOMERS) as u32;
        let rows = session.run(&self.read, (customer,)).await?;
        ensure!(rows.len() == 1, "customer {customer} is there {} times", rows.len());
        let points = 1 + self.dice.below(50) as i64;
        self.pending = Some(Pending::Points(customer, points));
        session.run(&self.add, (points, customer)).await?;
        self.pending = None;
        books.points.entry(customer).or_default().sure += points;
        pulse.committed();
        self.review(session, books, pulse).await
    }

    fn broken(&mut self, books: &mut Books) {
        match self.pending.take() {
            Some(Pending::Points(customer, points)) => {
                books.points.entry(customer).or_default().perhaps += points;
            }
            Some(Pending::Review(key)) => {
                books.reviews_perhaps.insert(key);
            }
            None => {}
        }
    }
}

impl Clerk {
    /// Writes a review and, when there are enough, removes the oldest.
    async fn review(&mut self, session: &mut Session, books: &mut Books, pulse: &Pulse) -> Result<()> {
        // Customers whom the shop's old reviews and the other clerks leave alone.
        let customer = 50_000 + self.worker * 100 + self.dice.below(100) as u32;
        let key = (1 + self.dice.below(PRODUCTS) as u32, customer);
        if books.reviews.contains(&key) || books.reviews_perhaps.contains(&key) {
            return Ok(());
        }
        let body = "Sehr gut! 🎬 ".repeat(1 + self.dice.below(20) as usize);
        self.pending = Some(Pending::Review(key));
        session.run(&self.review, (key.0, key.1, 1 + self.dice.below(5), body)).await?;
        self.pending = None;
        books.reviews.insert(key);
        self.own.push_back(key);
        pulse.committed();
        if self.own.len() > REVIEWS_KEPT
            && let Some(oldest) = self.own.pop_front()
        {
            self.pending = Some(Pending::Review(oldest));
            session.run(&self.remove, oldest).await?;
            self.pending = None;
            books.reviews.remove(&oldest);
            pulse.committed();
        }
        Ok(())
    }
}
