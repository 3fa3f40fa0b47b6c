//! What is known of a session state. (H3)
