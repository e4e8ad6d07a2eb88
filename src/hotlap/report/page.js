"use strict";
// The page reads whole without this: it sorts and filters the candidates, copies code and shows what a mark says.

const value = (row, column) => {
  const text = row.cells[column].dataset.sort;
  return { text, number: text === "" ? NaN : Number(text) };
};

const compare = (a, b, column, sign) => {
  const left = value(a, column), right = value(b, column);
  if (left.text === "" || right.text === "") return (left.text === "") - (right.text === ""); // unknown goes last
  const numbers = !Number.isNaN(left.number) && !Number.isNaN(right.number);
  return sign * (numbers ? left.number - right.number : left.text.localeCompare(right.text));
};

const table = document.querySelector("table.candidates");
if (table) {
  const headings = [...table.tHead.rows[0].cells];
  headings.forEach((heading, column) => {
    const label = heading.querySelector(".sortable");
    const button = document.createElement("button");
    button.type = "button";
    button.className = "sort";
    button.textContent = label.textContent;
    label.replaceWith(button);
    button.addEventListener("click", () => {
      const falls = heading.getAttribute("aria-sort") === "ascending";
      headings.forEach((other) => other.removeAttribute("aria-sort"));
      heading.setAttribute("aria-sort", falls ? "descending" : "ascending");
      const body = table.tBodies[1];
      body.append(...[...body.rows].sort((a, b) => compare(a, b, column, falls ? -1 : 1)));
    });
  });

  const filter = document.querySelector(".filter");
  filter.hidden = false;
  filter.addEventListener("click", (event) => {
    const chosen = event.target.closest("button");
    if (!chosen) return;
    filter.querySelectorAll("button").forEach((one) => one.setAttribute("aria-pressed", String(one === chosen)));
    for (const row of table.tBodies[1].rows) {
      row.hidden = chosen.dataset.filter !== "" && row.dataset.status !== chosen.dataset.filter;
    }
  });
}

document.querySelectorAll(".code").forEach((box) => {
  const button = box.querySelector("button"), text = box.querySelector("code");
  button.hidden = false;
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(text.textContent);
      button.textContent = "Copied";
    } catch {
      getSelection().selectAllChildren(text); // no clipboard for this page: leave it selected, ready to copy
      button.textContent = "Selected";
    }
    setTimeout(() => { button.textContent = "Copy"; }, 2000);
  });
});

const tooltip = document.getElementById("tooltip");
const hide = () => { tooltip.hidden = true; };
document.querySelectorAll(".plot .mark").forEach((mark) => {
  const title = mark.querySelector("title");
  const text = title.textContent;
  title.remove(); // or the browser would show its own, later, over this one
  mark.addEventListener("pointerenter", () => {
    tooltip.textContent = text;
    tooltip.hidden = false;
    const box = mark.querySelector(".point").getBoundingClientRect();
    const left = Math.min(box.right + 10, document.documentElement.clientWidth - tooltip.offsetWidth - 8);
    const above = box.top - tooltip.offsetHeight - 8;
    tooltip.style.left = `${scrollX + Math.max(8, left)}px`;
    tooltip.style.top = `${scrollY + (above > 0 ? above : box.bottom + 8)}px`;
    mark.classList.add("over");
  });
  mark.addEventListener("pointerleave", () => {
    hide();
    mark.classList.remove("over");
  });
});
addEventListener("keydown", (event) => { if (event.key === "Escape") hide(); });
addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((one) => { one.open = true; }));
