//! The application's own books: what it was told is done, kept in its memory and nowhere else.

use std::collections::{BTreeMap, BTreeSet};

/// A product taken from a warehouse for an order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Item {
    /// The product.
    pub(crate) product: u32,
    /// The warehouse.
    pub(crate) warehouse: u32,
    /// Pieces.
    pub(crate) quantity: i64,
    /// Price of a piece.
    pub(crate) price_cents: i64,
}

/// An order as the application knows it.
#[derive(Debug, Clone)]
pub(crate) struct Order {
    /// The application's own number, unique by its making and not by any key.
    pub(crate) reference: String,
    /// Its lines.
    pub(crate) items: Vec<Item>,
    /// It was said to be shipped: yes, no, or nobody knows (the reply was lost).
    pub(crate) shipped: Option<bool>,
}

impl Order {
    /// Sum of the lines.
    pub(crate) fn total_cents(&self) -> i64 {
        self.items.iter().map(|item| item.quantity * item.price_cents).sum()
    }
}

/// How much was added: for sure, and perhaps (the reply was lost).
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Tally {
    /// Acknowledged.
    pub(crate) sure: i64,
    /// Asked for, with a reply that never came.
    pub(crate) perhaps: i64,
}

/// What one worker did; merged at the end.
#[derive(Debug, Default)]
pub(crate) struct Books {
    /// Acknowledged orders.
    pub(crate) orders: Vec<Order>,
    /// Orders whose COMMIT was never answered.
    pub(crate) orders_perhaps: Vec<Order>,
    /// References of orders that were rolled back.
    pub(crate) rolled_back: BTreeSet<String>,
    /// Points added, by customer.
    pub(crate) points: BTreeMap<u32, Tally>,
    /// Views added, by product.
    pub(crate) views: BTreeMap<u32, Tally>,
    /// Reviews that stand, by product and customer.
    pub(crate) reviews: BTreeSet<(u32, u32)>,
    /// Reviews whose writing or removal was never answered.
    pub(crate) reviews_perhaps: BTreeSet<(u32, u32)>,
}

impl Books {
    /// Adds another worker's books.
    pub(crate) fn merge(&mut self, other: Books) {
        self.orders.extend(other.orders);
        self.orders_perhaps.extend(other.orders_perhaps);
        self.rolled_back.extend(other.rolled_back);
        for (mine, theirs) in [(&mut self.points, other.points), (&mut self.views, other.views)] {
            for (key, tally) in theirs {
                let sum = mine.entry(key).or_default();
                sum.sure += tally.sure;
                sum.perhaps += tally.perhaps;
            }
        }
        self.reviews.extend(other.reviews);
        self.reviews_perhaps.extend(other.reviews_perhaps);
    }
}
