//! Appends whole transactions and says what is durable. (H5)
