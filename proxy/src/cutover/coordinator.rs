//! Carries out the effects that `step` asks for. (H4)
