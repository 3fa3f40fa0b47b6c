//! opensrv-mysql behind our own front door, one packet at a time. (H4)
