//! The task of one session, both directions in it. (H3)
