switch("path", "../src")
switch("styleCheck", "error")
switch("panics", "off")
