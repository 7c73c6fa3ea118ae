"""What a run or a sweep found, as one page: `contents` reads the directory, `page` writes it as HTML."""
