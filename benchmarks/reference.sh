#!/usr/bin/env bash
# Draws the reference runs of results/ again, and the table of the README:
#
#     benchmarks/reference.sh [NAME...]
#
# Each NAME is a folder of results/, or "readme"; without one, all of them, in about two and three quarter hours on one core. What is
# stopped goes on where it was: give the same command again. Cells that two runs share are drawn once.
set -euo pipefail
cd "$(dirname "$0")/.."

# The number of images and the settings of each run, without its output. One thread each, so that the chunks do not
# depend on the machine's cores.
declare -A runs=(
    [verdicts]="1024 --nfe 5,10,20 -s ddpm -s ddim -s dpm-solver -s dpm-solver++ -s unipc -s ipndm -s heun"
    [family]="1024 --nfe 5,8,10,15,20 -s ddpm -s ddim -s euler -s heun -s dpm-solver -s dpm-solver:order=3
        -s dpm-solver++ -s dpm-solver++:order=3 -s unipc -s deis -s ipndm -s dpm-solver++-sde"
    [variance]="2048 --steps 5,10,20 -s ddpm -s ddpm:variance=large -s ddim"
    [ode-error]="512 --nfe 10,20,40 --metric clip_score -s ddim -s dpm-solver -s dpm-solver:order=3
        -s dpm-solver:plan=fast -s dpm-solver++ -s ddim:grid=logsnr -s dpm-solver:grid=logsnr
        -s dpm-solver:order=3,grid=logsnr -s dpm-solver:plan=fast,grid=logsnr -s dpm-solver++:grid=logsnr"
    [third-order]="512 --nfe 5,10,20 -s dpm-solver++ -s dpm-solver++:order=3
        -s dpm-solver++:order=3,coefficients=published -s dpm-solver++:grid=logsnr
        -s dpm-solver++:order=3,grid=logsnr -s dpm-solver++:order=3,coefficients=published,grid=logsnr"
    [reference]="1024 --steps 5,10,20,50,100"
    [thousand]="256 --steps 10,20,50,100,1000 -s ddpm -s ddpm:variance=large -s ddim"
    [guidance]="128 --nfe 3,5,8,10,20 --guidance 1,2,4 -s ddpm -s ddim -s heun -s dpm-solver++ -s dpm-solver++-sde
        -s unipc -s deis -s sa-solver -s res -s gradient-estimation -s euler-cfg++ -s dpm-solver++-cfg++"
    [scenes]="128 --model scenes --nfe 5,8,10,15,20 --guidance 1,3,5 --metric fid --metric clip_score
        --metric composition -s ddpm -s ddim -s heun -s dpm-solver -s dpm-solver++ -s dpm-solver++:order=3
        -s dpm-solver++-sde -s unipc -s deis -s ipndm -s sa-solver -s lms"
    [scenes-grids]="128 --model scenes --nfe 5,10 --guidance 3 --metric fid --metric clip_score --metric composition
        -s ddim -s dpm-solver++ -s dpm-solver++:grid=trailing -s dpm-solver++:grid=karras -s dpm-solver++:grid=logsnr"
    [scenes-flow]="128 --model scenes-flow --nfe 5,10,20 --guidance 3 --metric fid --metric clip_score
        --metric composition -s euler -s heun -s dpm-solver++"
)
order=(family verdicts variance ode-error third-order reference thousand guidance scenes scenes-grids scenes-flow)

# Give a run the chunks of those drawn before, as far as its number of images (the second argument) reaches. A chunk is
# never changed once it is written, so a link is enough, and cells that are not of the run are not read.
share() {
    local output=$1 n=$2 other file cell first
    for other in "${order[@]}"; do
        if [ "results/$other" = "$output" ]; then
            continue
        fi
        for file in "results/$other"/chunks/*/[0-9]*-[0-9]*.safetensors; do
            cell=${file%/*}
            cell=$output/chunks/${cell##*/}
            first=${file##*/}
            first=${first%%-*}
            if [ -f "$file" ] && [ ! -e "$cell/${file##*/}" ] && [ "$((10#$first))" -lt "$n" ]; then
                mkdir -p "$cell"
                ln "$file" "$cell/"
            fi
        done
    done
}

# The arguments are the output, the number of images and the settings. A run of another version (exit 2) or format
# (exit 5) is refused, and then drawn from its first chunk.
draw() {
    local output=$1 n=$2 status=0
    shift 2
    share "$output" "$n"
    samplerbench run -n "$n" "$@" -o "$output" || status=$?
    if [ "$status" = 2 ] || [ "$status" = 5 ]; then
        rm -r "$output"
        share "$output" "$n"
        samplerbench run -n "$n" "$@" -o "$output"
    elif [ "$status" != 0 ]; then
        exit "$status"
    fi
}

# Which differences papers report, of pairs that share a run at several guidances.
pairs=("ddim ddpm" "dpm-solver++ ddim" "unipc ddim" "ipndm ddim" "dpm-solver++:order=3 ddim" "heun ddim")

questions() {
    local run=results/$1 pages=("docs/$1.md") budgets metric pair
    case $1 in
        verdicts) budgets=5,10,20 ;;
        reference) budgets=5,10,20,50,100 ;;
        guidance) budgets=3,5,8,10,20 ;;
        scenes) budgets=5,8,10,15,20 ;;
        scenes-grids)
            samplerbench table "$run" --nfe 5,10 --metric composition >"$run/budgets-composition.txt"
            return 0
            ;;
        scenes-flow)
            samplerbench table "$run" --nfe 5,10,20 --metric composition >"$run/budgets-composition.txt"
            return 0
            ;;
        *) return 0 ;;
    esac
    samplerbench table "$run" --nfe "$budgets" >"$run/budgets.txt"
    case $1 in
        guidance) samplerbench table "$run" --pivot fid >"$run/fid.md" ;;
        scenes)
            for metric in fid composition; do
                samplerbench table "$run" --pivot "$metric" >"$run/$metric.md"
            done
            samplerbench table "$run" --nfe "$budgets" --metric composition >"$run/budgets-composition.txt"
            for pair in "${pairs[@]}"; do
                # shellcheck disable=SC2086  (two samplers)
                samplerbench table "$run" --compare $pair
            done >"$run/orders.txt"
            pages+=(docs/choosing.md)
            ;;
        *)
            samplerbench table "$run" --pareto --against nfe >"$run/front.txt"
            return 0
            ;;
    esac
    python benchmarks/guidance_page.py "$run" "${pages[@]}"
}

readme() {
    draw results/readme-default 512
    python benchmarks/readme_table.py results/readme-default
    cp results/readme-default/grid.png docs/grid.png
}

for name in "${@:-${order[@]} readme}"; do
    for one in $name; do
        if [ "$one" = readme ]; then
            readme
        elif [ -n "${runs[$one]:-}" ]; then
            # shellcheck disable=SC2086  (the settings are words)
            draw "results/$one" ${runs[$one]} --threads 1
            questions "$one"
        else
            echo "benchmarks/reference.sh: no run is called $one; expected readme or one of ${order[*]}" >&2
            exit 2
        fi
    done
done
