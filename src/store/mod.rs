//! Records of the run folder: versioned, checksummed, replaced by rename.
