# How well does the nearest class centroid tell malignant from benign?
#
#   awk -f classify.awk /input/*.csv
#
# Reads files with a header line, one patient a line: the column "diagnosis" (0 malignant, 1 benign,
# as the data set has it) and numbers in every other column. Each patient is classified by the
# centroids of all the others: the features are divided by the standard deviation of the others, the
# patient is taken out of the sums of its own class, and the nearer centroid decides. Taking one
# patient out of the sums costs one pass over the features, so the whole costs patients x features.
#
# Writes metrics.json and confusion.csv to $TORNO_OUTPUT, or to /output. What is written are counts
# and proportions, nothing about any one patient.

BEGIN { FS = "," }

{ sub(/\r$/, "") }

FNR == 1 {
    if (columns == 0) read_header()
    else if ($0 != header) fail(FILENAME ": its header is not that of the first file")
    next
}

/^[ \t]*$/ { next }

{
    if (NF != columns) fail(FILENAME ":" FNR ": " NF " columns, and the header has " columns)
    if ($target != "0" && $target != "1") fail(FILENAME ":" FNR ": diagnosis is neither 0 nor 1")
    class[++patients] = $target + 0
    feature = 0
    for (i = 1; i <= columns; i++) {
        if (i == target) continue
        # A run of digits with a point and an exponent, and nothing that awk would take for 0.
        if ($i !~ /^[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?$/)
            fail(FILENAME ":" FNR ": \"" name[i] "\" is not a number")
        value[patients, ++feature] = $i + 0
    }
}

END {
    if (failed) exit 1
    if (columns == 0) fail("there is no CSV file with a header to read")
    centre()
    sum_up()
    if (count[0] < 2 || count[1] < 2) fail("each diagnosis needs at least 2 patients")
    for (p = 1; p <= patients; p++) confusion[class[p], nearest(p)]++
    write_metrics()
    write_confusion()
}

function read_header(    i) {
    header = $0
    columns = NF
    for (i = 1; i <= NF; i++) {
        name[i] = $i
        if ($i == "diagnosis") target = i
    }
    if (!target) fail(FILENAME ": there is no column \"diagnosis\"")
    features = columns - 1
}

# Moves every feature to mean 0. No distance changes; sums of squares keep their digits.
function centre(    p, f, mean) {
    for (f = 1; f <= features; f++) {
        mean = 0
        for (p = 1; p <= patients; p++) mean += value[p, f]
        mean /= patients
        for (p = 1; p <= patients; p++) value[p, f] -= mean
    }
}

function sum_up(    p, f, x) {
    count[0] = count[1] = 0
    for (p = 1; p <= patients; p++) {
        count[class[p]]++
        for (f = 1; f <= features; f++) {
            x = value[p, f]
            sum[class[p], f] += x
            squares[f] += x * x
        }
    }
}

# The class whose centroid is nearest to patient p, who is in neither centroid; malignant on a tie.
function nearest(p,    f, c, x, others, mean, variance, difference, distance) {
    others = patients - 1
    distance[0] = distance[1] = 0
    for (f = 1; f <= features; f++) {
        x = value[p, f]
        mean = (sum[0, f] + sum[1, f] - x) / others
        variance = (squares[f] - x * x) / others - mean * mean
        if (variance <= 1e-12 * squares[f] / patients) continue # all the others are alike in it
        for (c = 0; c <= 1; c++) {
            if (c == class[p]) difference = x - (sum[c, f] - x) / (count[c] - 1)
            else difference = x - sum[c, f] / count[c]
            distance[c] += difference * difference / variance
        }
    }
    return distance[1] < distance[0] ? 1 : 0
}

function write_metrics(    file) {
    file = output() "/metrics.json"
    printf "{\n" > file
    printf "  \"method\": \"nearest centroid, standardised features, leave one out\",\n" > file
    printf "  \"patients\": %d,\n", patients > file
    printf "  \"malignant\": %d,\n", count[0] > file
    printf "  \"benign\": %d,\n", count[1] > file
    printf "  \"features\": %d,\n", features > file
    printf "  \"accuracy\": %.6f,\n", (confusion[0, 0] + confusion[1, 1]) / patients > file
    printf "  \"sensitivity\": %.6f,\n", confusion[0, 0] / count[0] > file
    printf "  \"specificity\": %.6f\n", confusion[1, 1] / count[1] > file
    printf "}\n" > file
    close(file)
}

function write_confusion(    file, actual, predicted, word) {
    file = output() "/confusion.csv"
    word[0] = "malignant"
    word[1] = "benign"
    print "diagnosis,classified_as,patients" > file
    for (actual = 0; actual <= 1; actual++)
        for (predicted = 0; predicted <= 1; predicted++)
            printf "%s,%s,%d\n", word[actual], word[predicted], confusion[actual, predicted] > file
    close(file)
}

function output() {
    return ("TORNO_OUTPUT" in ENVIRON) ? ENVIRON["TORNO_OUTPUT"] : "/output"
}

# awk still runs END after an exit: it must then write nothing.
function fail(message) {
    print "classify: " message > "/dev/stderr"
    failed = 1
    exit 1
}
