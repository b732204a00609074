//! Safe replacement of files.
