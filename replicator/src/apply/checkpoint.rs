//! The applied position, in the target's own `changeover` schema. (H7)
