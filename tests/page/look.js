// What a reader would see of the page as it is shown now: a list of complaints, empty if there is none.
() => {
  const complaints = [];
  const narrow = document.scrollingElement;
  if (narrow.scrollWidth > narrow.clientWidth)
    complaints.push(`the page is ${narrow.scrollWidth} px wide, the window ${narrow.clientWidth}`);

  const luminance = colour => {
    const [red, green, blue] = colour.map(one => {
      const part = one / 255;
      return part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
  };
  const numbers = colour => (colour.match(/[\d.]+/g) || []).map(Number);
  const ground = element => {
    for (let one = element; one; one = one.parentElement) {
      const [red, green, blue, alpha = 1] = numbers(getComputedStyle(one).backgroundColor);
      if (alpha > 0) return [red, green, blue];
    }
    return [255, 255, 255];
  };
  const contrast = (colour, element) => {
    const both = [luminance(numbers(colour).slice(0, 3)), luminance(ground(element))].sort((a, b) => b - a);
    return (both[0] + 0.05) / (both[1] + 0.05);
  };

  const texts = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const node = walker.currentNode, parent = node.parentElement, plot = parent.closest("svg");
    if (!node.data.trim() || parent.closest("title, style, script")) continue;
    const range = document.createRange();
    range.selectNodeContents(node);
    const boxes = plot ? [parent.getBoundingClientRect()] : [...range.getClientRects()];
    const said = node.data.trim().slice(0, 50), style = getComputedStyle(parent);
    const found = contrast(plot ? style.fill : style.color, parent);
    if (found < 4.5) complaints.push(`"${said}" has a contrast of ${found.toFixed(2)}`);
    const scale = plot ? plot.getBoundingClientRect().width / plot.viewBox.baseVal.width : 1;
    const size = parseFloat(style.fontSize) * scale, least = plot ? 9 : 12;
    if (size < least) complaints.push(`"${said}" is ${size.toFixed(1)} px high`);
    const frame = (plot || parent.closest(".wide > table, section, main")).getBoundingClientRect();
    for (const box of boxes) {
      if (!box.width || !box.height) complaints.push(`"${said}" is not shown`);
      if (box.left < frame.left - 1 || box.right > frame.right + 1 || box.top < frame.top - 1 || box.bottom > frame.bottom + 1)
        complaints.push(`"${said}" is cut`);
      texts.push([box, said]);
    }
  }
  texts.forEach(([one, said], place) => {
    for (const [other, too] of texts.slice(place + 1)) {
      const wide = Math.min(one.right, other.right) - Math.max(one.left, other.left);
      const high = Math.min(one.bottom, other.bottom) - Math.max(one.top, other.top);
      if (wide > 2 && high > 2) complaints.push(`"${said}" and "${too}" overlap`);
    }
  });

  for (const plot of document.querySelectorAll("svg")) {
    const name = plot.getAttribute("aria-label"), box = plot.getBoundingClientRect();
    const frame = plot.closest("section").getBoundingClientRect();
    if (box.width < 250 || box.height < 60) complaints.push(`${name}: ${box.width} x ${box.height} px`);
    if (!plot.closest(".wide") && box.right > frame.right) complaints.push(`${name}: is cut`);
    let drawn = 0;
    for (const mark of plot.querySelectorAll("use")) {
      const style = getComputedStyle(mark), colour = style.fill === "none" ? style.stroke : style.fill;
      // Faint ones are dots behind the others.
      if (style.fillOpacity === "1" && contrast(colour, plot) < 3) complaints.push(`${name}: a mark is too faint`);
      drawn += mark.getBoundingClientRect().width > 0;
    }
    if (!drawn) complaints.push(`${name}: nothing is drawn`);
  }

  // A table that is too wide can be read by scrolling it.
  for (const table of document.querySelectorAll("table")) {
    const room = table.parentElement;
    if (table.offsetWidth > room.clientWidth && getComputedStyle(room).overflowX !== "auto")
      complaints.push("a table is cut");
  }
  return complaints;
}
