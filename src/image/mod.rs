//! Images: references, registries, content, layers and snapshots.
