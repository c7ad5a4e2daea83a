"""What retrievers search in: vectors, postings, token vectors."""
