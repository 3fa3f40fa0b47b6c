//! The database that moves: a small shop with about half a million rows of ordinary types.

use anyhow::{Context, Result};
use mysql_async::Conn;
use mysql_async::prelude::Queryable;

use super::scratch::Scratch;

/// Customers in the shop before the application starts.
pub(crate) const CUSTOMERS: u64 = 60_000;
/// Products.
pub(crate) const PRODUCTS: u64 = 10_000;
/// Warehouses; each has stock of each product.
pub(crate) const WAREHOUSES: u64 = 4;
/// Pieces of a product in a warehouse at the beginning.
pub(crate) const STOCK: i64 = 1_000_000;
/// Tables that the application only reads.
pub(crate) const STILL_TABLES: [&str; 5] =
    ["shop.categories", "shop.products", "shop.addresses", "shop.warehouses", "shop_stats.daily_sales"];
/// Tables that the application writes.
pub(crate) const BUSY_TABLES: [&str; 7] = [
    "shop.customers",
    "shop.stock",
    "shop.orders",
    "shop.order_items",
    "shop.payments",
    "shop.reviews",
    "shop_stats.page_views",
];

/// What the application's account may do; on both servers, since accounts don't move yet.
const ACCOUNTS: &[&str] = &[
    "CREATE USER shopper@'%' IDENTIFIED BY 'shopper'",
    "GRANT SELECT, INSERT, UPDATE, DELETE ON shop.* TO shopper@'%'",
    "GRANT SELECT, INSERT, UPDATE, DELETE ON shop_stats.* TO shopper@'%'",
    "CREATE USER changeover@'%' IDENTIFIED BY 'changeover'",
    // As docs/accounts.md has it, and no more.
    "GRANT SELECT, INSERT, UPDATE, DELETE, CREATE, DROP, ALTER, INDEX, REFERENCES, TRIGGER, EVENT, CREATE VIEW,
        SHOW VIEW, CREATE ROUTINE, ALTER ROUTINE, EXECUTE, LOCK TABLES, RELOAD, PROCESS, REPLICATION SLAVE,
        BINLOG MONITOR, READ_ONLY ADMIN, CONNECTION ADMIN ON *.* TO changeover@'%'",
];

const SCHEMA: &[&str] = &[
    "CREATE DATABASE shop DEFAULT CHARACTER SET utf8mb4",
    "CREATE DATABASE shop_stats DEFAULT CHARACTER SET utf8mb4",
    "CREATE TABLE shop.categories (
        id SMALLINT UNSIGNED NOT NULL AUTO_INCREMENT PRIMARY KEY,
        parent_id SMALLINT UNSIGNED NULL,
        name VARCHAR(60) NOT NULL,
        UNIQUE KEY name (name),
        CONSTRAINT categories_parent FOREIGN KEY (parent_id) REFERENCES shop.categories (id))",
    "CREATE TABLE shop.products (
        id INT UNSIGNED NOT NULL AUTO_INCREMENT PRIMARY KEY,
        category_id SMALLINT UNSIGNED NOT NULL,
        sku CHAR(12) CHARACTER SET ascii NOT NULL,
        name VARCHAR(120) NOT NULL,
        description TEXT,
        price DECIMAL(10,2) NOT NULL,
        weight_kg DOUBLE,
        attributes JSON,
        active BOOLEAN NOT NULL DEFAULT TRUE,
        created_at DATETIME(6) NOT NULL,
        updated_at TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP ON UPDATE CURRENT_TIMESTAMP,
        UNIQUE KEY sku (sku),
        KEY category_price (category_id, price),
        CONSTRAINT products_category FOREIGN KEY (category_id) REFERENCES shop.categories (id))",
    "CREATE TABLE shop.customers (
        id INT UNSIGNED NOT NULL AUTO_INCREMENT PRIMARY KEY,
        email VARCHAR(120) NOT NULL,
        full_name VARCHAR(100) NOT NULL,
        tier ENUM('bronze','silver','gold') NOT NULL DEFAULT 'bronze',
        points INT NOT NULL DEFAULT 0,
        born DATE NULL,
        newsletter BOOLEAN NOT NULL DEFAULT FALSE,
        created_at DATETIME(6) NOT NULL,
        notes TEXT NULL,
        UNIQUE KEY email (email),
        KEY tier (tier, points))",
    "CREATE TABLE shop.addresses (
        customer_id INT UNSIGNED NOT NULL,
        kind ENUM('home','work','gift') NOT NULL,
        street VARCHAR(100) NOT NULL,
        city VARCHAR(60) NOT NULL,
        postcode VARCHAR(12) NOT NULL,
        country CHAR(2) NOT NULL DEFAULT 'NL',
        PRIMARY KEY (customer_id, kind),
        KEY city (city),
        CONSTRAINT addresses_customer FOREIGN KEY (customer_id) REFERENCES shop.customers (id))",
    "CREATE TABLE shop.warehouses (
        id TINYINT UNSIGNED NOT NULL PRIMARY KEY,
        name VARCHAR(40) NOT NULL,
        opened_at DATETIME NULL)",
    "CREATE TABLE shop.stock (
        warehouse_id TINYINT UNSIGNED NOT NULL,
        product_id INT UNSIGNED NOT NULL,
        quantity INT NOT NULL,
        sold BIGINT NOT NULL DEFAULT 0,
        counted_at TIMESTAMP(6) NOT NULL DEFAULT CURRENT_TIMESTAMP(6) ON UPDATE CURRENT_TIMESTAMP(6),
        PRIMARY KEY (warehouse_id, product_id),
        KEY product (product_id),
        CONSTRAINT stock_warehouse FOREIGN KEY (warehouse_id) REFERENCES shop.warehouses (id),
        CONSTRAINT stock_product FOREIGN KEY (product_id) REFERENCES shop.products (id))",
    "CREATE TABLE shop.orders (
        id BIGINT UNSIGNED NOT NULL AUTO_INCREMENT PRIMARY KEY,
        reference VARCHAR(32) NOT NULL,
        customer_id INT UNSIGNED NOT NULL,
        status ENUM('placed','paid','shipped','returned') NOT NULL DEFAULT 'placed',
        total DECIMAL(12,2) NOT NULL,
        currency CHAR(3) NOT NULL DEFAULT 'EUR',
        note VARCHAR(200) NULL,
        placed_at DATETIME(6) NOT NULL,
        updated_at TIMESTAMP(3) NOT NULL DEFAULT CURRENT_TIMESTAMP(3) ON UPDATE CURRENT_TIMESTAMP(3),
        KEY reference (reference),
        KEY customer (customer_id, placed_at),
        CONSTRAINT orders_customer FOREIGN KEY (customer_id) REFERENCES shop.customers (id))",
    "CREATE TABLE shop.order_items (
        order_id BIGINT UNSIGNED NOT NULL,
        line SMALLINT UNSIGNED NOT NULL,
        product_id INT UNSIGNED NOT NULL,
        warehouse_id TINYINT UNSIGNED NOT NULL,
        quantity INT NOT NULL,
        unit_price DECIMAL(10,2) NOT NULL,
        PRIMARY KEY (order_id, line),
        KEY product (product_id),
        CONSTRAINT items_order FOREIGN KEY (order_id) REFERENCES shop.orders (id),
        CONSTRAINT items_product FOREIGN KEY (product_id) REFERENCES shop.products (id))",
    "CREATE TABLE shop.payments (
        id BIGINT UNSIGNED NOT NULL AUTO_INCREMENT PRIMARY KEY,
        order_id BIGINT UNSIGNED NOT NULL,
        method ENUM('card','transfer','voucher') NOT NULL,
        amount DECIMAL(12,2) NOT NULL,
        token VARBINARY(32) NULL,
        paid_at TIMESTAMP(6) NOT NULL DEFAULT CURRENT_TIMESTAMP(6),
        KEY paid_order (order_id),
        CONSTRAINT payments_order FOREIGN KEY (order_id) REFERENCES shop.orders (id))",
    "CREATE TABLE shop.reviews (
        id INT UNSIGNED NOT NULL AUTO_INCREMENT PRIMARY KEY,
        product_id INT UNSIGNED NOT NULL,
        customer_id INT UNSIGNED NOT NULL,
        stars TINYINT NOT NULL,
        body TEXT NOT NULL,
        created_at DATETIME NOT NULL,
        UNIQUE KEY once (product_id, customer_id),
        CONSTRAINT reviews_product FOREIGN KEY (product_id) REFERENCES shop.products (id),
        CONSTRAINT reviews_customer FOREIGN KEY (customer_id) REFERENCES shop.customers (id))",
    "CREATE TABLE shop_stats.page_views (
        day DATE NOT NULL,
        product_id INT UNSIGNED NOT NULL,
        views BIGINT UNSIGNED NOT NULL,
        PRIMARY KEY (day, product_id))",
    "CREATE TABLE shop_stats.daily_sales (
        day DATE NOT NULL PRIMARY KEY,
        orders INT NOT NULL,
        revenue DECIMAL(16,4) NOT NULL,
        busiest TIME(3) NULL)",
];

/// A table and the statement that fills it.
const FILL: &[(&str, &str)] = &[
    (
        "categories",
        "INSERT INTO shop.categories (id, parent_id, name)
         SELECT seq, IF(seq > 10, 1 + seq MOD 10, NULL), CONCAT('category ', seq) FROM seq_1_to_60",
    ),
    (
        "products",
        "INSERT INTO shop.products
            (id, category_id, sku, name, description, price, weight_kg, attributes, active, created_at)
         SELECT seq, 1 + seq MOD 60, LPAD(seq, 12, 'SKU000000000'), CONCAT('Ware № ', seq, ' – größer'),
            IF(seq MOD 7 = 0, NULL, REPEAT(CONCAT('A fine thing, no. ', seq, '. '), 1 + seq MOD 6)),
            1 + (seq * 7919 MOD 50000) / 100, IF(seq MOD 5 = 0, NULL, seq / 7),
            JSON_OBJECT('colour', ELT(1 + seq MOD 4, 'red', 'blue', 'грин', '黄'), 'sizes', JSON_ARRAY(seq, seq + 1)),
            seq MOD 50 <> 0, '2024-01-01' + INTERVAL seq * 997 MICROSECOND + INTERVAL seq HOUR
         FROM seq_1_to_10000",
    ),
    (
        "customers",
        "INSERT INTO shop.customers (id, email, full_name, tier, points, born, newsletter, created_at, notes)
         SELECT seq, CONCAT('customer', seq, '@example.com'), CONCAT('Zoë Ångström ', seq, IF(seq MOD 9 = 0, ' 🎬', '')),
            1 + seq MOD 3, 0, IF(seq MOD 4 = 0, NULL, '1950-01-01' + INTERVAL seq MOD 20000 DAY), seq MOD 2,
            '2023-05-05 05:05:05' + INTERVAL seq * 1009 MICROSECOND, IF(seq MOD 10 = 0, REPEAT('note ', 20), NULL)
         FROM seq_1_to_60000",
    ),
    (
        "addresses",
        "INSERT INTO shop.addresses (customer_id, kind, street, city, postcode, country)
         SELECT 1 + (seq - 1) MOD 60000, IF(seq <= 60000, 'home', 'gift'), CONCAT('Long Street ', seq),
            ELT(1 + seq MOD 5, 'Utrecht', 'Łódź', 'København', 'Zürich', 'Αθήνα'), LPAD(seq, 6, '0'),
            ELT(1 + seq MOD 5, 'NL', 'PL', 'DK', 'CH', 'GR')
         FROM seq_1_to_80000",
    ),
    (
        "warehouses",
        "INSERT INTO shop.warehouses SELECT seq, CONCAT('hall ', seq), '2020-02-29 12:00:00' FROM seq_1_to_4",
    ),
    (
        "stock",
        "INSERT INTO shop.stock (warehouse_id, product_id, quantity, counted_at)
         SELECT w.id, p.id, 1000000, '2026-01-01 00:00:00' + INTERVAL p.id MICROSECOND
         FROM shop.warehouses w JOIN shop.products p",
    ),
    (
        "orders",
        "INSERT INTO shop.orders (id, reference, customer_id, status, total, note, placed_at, updated_at)
         SELECT seq, CONCAT('old-', seq), 1 + seq * 31 MOD 60000, 1 + seq MOD 4, (seq * 13 MOD 100000) / 100,
            IF(seq MOD 3 = 0, CONCAT('leave it at the door ', seq), NULL),
            '2025-01-01' + INTERVAL seq * 300 SECOND + INTERVAL seq MICROSECOND,
            '2025-06-01 00:00:00' + INTERVAL seq SECOND
         FROM seq_1_to_80000",
    ),
    (
        "order_items",
        "INSERT INTO shop.order_items (order_id, line, product_id, warehouse_id, quantity, unit_price)
         SELECT 1 + (seq - 1) DIV 2, 1 + (seq - 1) MOD 2, 1 + seq * 17 MOD 10000, 1 + seq MOD 4, 1 + seq MOD 5,
            (seq * 29 MOD 90000) / 100
         FROM seq_1_to_160000",
    ),
    (
        "payments",
        "INSERT INTO shop.payments (order_id, method, amount, token, paid_at)
         SELECT seq, 1 + seq MOD 3, (seq * 13 MOD 100000) / 100, UNHEX(MD5(seq)),
            '2025-02-02 02:02:02' + INTERVAL seq SECOND
         FROM seq_1_to_60000",
    ),
    (
        "reviews",
        "INSERT INTO shop.reviews (product_id, customer_id, stars, body, created_at)
         SELECT 1 + seq MOD 10000, 1 + seq, 1 + seq MOD 5, REPEAT('Très bien. ', 1 + seq MOD 12),
            '2025-03-03' + INTERVAL seq MINUTE
         FROM seq_1_to_20000",
    ),
    (
        "page_views",
        "INSERT INTO shop_stats.page_views
         SELECT '2025-12-01' + INTERVAL seq DIV 1000 DAY, 1 + seq MOD 1000, seq FROM seq_0_to_9999",
    ),
    (
        "daily_sales",
        "INSERT INTO shop_stats.daily_sales
         SELECT '2022-01-01' + INTERVAL seq DAY, seq * 3, seq * 1234.5678, SEC_TO_TIME(seq * 37.125)
         FROM seq_1_to_1000",
    ),
];

/// Accounts on both servers, the shop on the source. `told` hears the name of each table and how much is done.
pub(crate) async fn open(
    source: &Scratch,
    target: &Scratch,
    mut told: impl FnMut(&str, usize, usize),
) -> Result<()> {
    target.run(ACCOUNTS).await?;
    source.run(ACCOUNTS).await?;
    source.run(SCHEMA).await?;
    let mut conn = Conn::new(source.root()).await?;
    // The history of an old database isn't in its binlog any more either.
    for setting in ["sql_log_bin = 0", "foreign_key_checks = 0", "time_zone = '+00:00'", "NAMES utf8mb4"] {
        conn.query_drop(format!("SET {setting}")).await?;
    }
    // The sequence tables live in whatever schema is the current one.
    conn.query_drop("USE shop").await?;
    for (done, (table, sql)) in FILL.iter().enumerate() {
        told(table, done, FILL.len());
        conn.query_drop(*sql).await.with_context(|| format!("filling {table}"))?;
    }
    told("done", FILL.len(), FILL.len());
    conn.disconnect().await?;
    Ok(())
}

/// Rows of a table.
pub(crate) async fn count(conn: &mut Conn, table: &str) -> Result<u64> {
    let rows: Option<u64> = conn.query_first(format!("SELECT COUNT(*) FROM {table}")).await?;
    rows.with_context(|| format!("{table} can't be counted"))
}
