/* Sorts the table of videos by a column; values that are not there come last. */

const heads = [...document.querySelectorAll("#index th")];

function sortBy(column, descending) {
  const body = document.querySelector("#index tbody"), direction = descending ? -1 : 1;
  const value = (row) => row.cells[column].dataset.value;
  const rows = [...body.rows].sort((a, b) => {
    const [left, right] = [value(a), value(b)];
    if (left === "" || right === "") return (left === "") - (right === "");
    const numbers = !Number.isNaN(Number(left)) && !Number.isNaN(Number(right));
    return direction * (numbers ? left - right : left.localeCompare(right, undefined, { numeric: true }));
  });
  body.append(...rows);
  for (const head of heads) head.removeAttribute("aria-sort");
  heads[column].setAttribute("aria-sort", descending ? "descending" : "ascending");
}

heads.forEach((head, column) => {
  const button = head.querySelector("button");
  // Scores are best at the top: numbers begin with the largest.
  const first = head.classList.contains("number") ? "descending" : "ascending";
  const next = { ascending: true, descending: false };
  if (button) button.onclick = () => sortBy(column, next[head.getAttribute("aria-sort")] ?? first === "descending");
});
