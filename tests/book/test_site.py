"""The built book without a browser: no warning, nothing missing, nothing from elsewhere."""

from __future__ import annotations

import checks
from pages import PAGES, ROOT_PAGE


def test_build_has_no_warnings(build: checks.Build) -> None:
    assert build.warnings == []
    assert build.returncode == 0, build.log[-3000:]


def test_every_page_is_opened_by_the_browser_tests(site: checks.Site) -> None:
    assert {site.name(page) for page in site.pages()} == {f"{page}.html" for page in [*PAGES, "index"]}


def test_index_leads_to_the_first_page(site: checks.Site) -> None:
    refresh = site.soup(site.html / "index.html").select_one("meta[http-equiv=Refresh]")
    assert refresh is not None and str(refresh["content"]).endswith(f"url={ROOT_PAGE}.html")
    assert (site.html / f"{ROOT_PAGE}.html").is_file()


def test_links_anchors_and_files_exist(site: checks.Site) -> None:
    assert checks.broken_links(site) == []


def test_nothing_is_fetched_from_another_host(site: checks.Site) -> None:
    assert checks.external_resources(site) == []


def test_every_picture_says_what_it_shows(site: checks.Site) -> None:
    assert checks.pictures_without_alt(site) == []


def test_ids_are_unique_within_a_page(site: checks.Site) -> None:
    assert checks.repeated_ids(site) == []


def test_every_notebook_has_a_table_of_its_claims(site: checks.Site) -> None:
    chapters = [page for page in PAGES if page.startswith("notebooks/")]
    without = [page for page in chapters if not site.soup(site.html / f"{page}.html").select("article table.claims")]
    assert without == []


def test_ledger_lists_every_claim_row_of_the_chapters(site: checks.Site) -> None:
    chapters = [page for page in PAGES if page.startswith("notebooks/")]
    rows = {
        row["id"] for page in chapters for row in site.soup(site.html / f"{page}.html").select("article div.claim[id]")
    }
    links = {
        str(a["href"]).rpartition("#")[2] for a in site.soup(site.html / "book/claims.html").select("table.claims a")
    }
    assert rows and rows == links


def test_only_the_icons_of_the_pages_are_shipped(site: checks.Site) -> None:
    assert (site.html / "_static/scripts/fontawesome.js").stat().st_size < 200_000
