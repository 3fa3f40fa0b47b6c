//! Keeps writers that do not come through the proxy off a backend. (H4)
