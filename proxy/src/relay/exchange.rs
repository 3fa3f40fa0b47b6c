//! Where a response ends: a pure state machine. (H3)
