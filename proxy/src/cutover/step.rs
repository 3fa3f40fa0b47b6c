//! `(state, event) → (state, effects)`, pure. (H4)
