"""A polite crawl into WARC: what to fetch next (order), the Scrapy child that fetches (spider), the kill-safe record (journal)."""
