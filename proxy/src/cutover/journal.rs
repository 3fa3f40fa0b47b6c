//! The fsynced journal: after a crash it alone decides who serves (invariant 2). (H4)
