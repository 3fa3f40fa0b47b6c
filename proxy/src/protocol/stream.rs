//! One type for the three things a leg can be: TCP, TLS over TCP, an in-process pipe. (H2)
